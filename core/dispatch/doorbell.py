"""The doorbell between API and workers: a Celery message that says "look", and carries no authority.

The database is the queue. A message that is lost, doubled or late costs seconds and never a job, so
notifying never fails a request and never keeps one waiting.
"""

import threading
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Protocol

import structlog

from core.settings import Settings

if TYPE_CHECKING:
    from celery import Celery

TASK_NAME: Final = "loramill.look"
QUEUE: Final = "loramill.bells"
NOTIFY_DEADLINE_S: Final = 3.0
# Any message wakes any worker and a woken worker empties the queue of jobs, so more are of no use.
MAX_WAITING_MESSAGES: Final = 64
_MAX_SENDING: Final = 4

_log = structlog.stdlib.get_logger(__name__)


def celery_config(settings: Settings) -> dict[str, Any]:
    """Give Celery's whole configuration; every value that is not its default has its reason here."""
    return {
        "broker_url": settings.broker_url,
        # prefork alone of the pools survives a broker's restart and lets a task be stopped
        "worker_pool": "prefork",
        "worker_concurrency": 1,
        "worker_pool_start_method": "spawn",  # no locks, file descriptors or CUDA state inherited
        "worker_max_tasks_per_child": 1,
        "worker_proc_alive_timeout": 60,  # Celery kills a fresh process after 4 s, too soon on a busy machine
        # A message is consumed when it is received. With late acknowledgement Redis would hand it out again
        # each visibility_timeout while the job still runs; the lease in the database takes its place.
        "task_acks_late": False,
        "task_reject_on_worker_lost": False,  # attempts are counted in the database
        "task_retry_on_worker_lost": False,
        # with prefetching, messages would wait behind a long job while another worker is idle
        "worker_prefetch_multiplier": 1,
        "worker_disable_prefetch": True,
        "worker_cancel_long_running_tasks_on_connection_loss": False,  # a broker's hiccup must not end a training
        "worker_soft_shutdown_timeout": 0,  # it would only delay the signal to write a checkpoint
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_transport_options": _transport_options(socket_timeout_s=10),
        "result_backend": None,
        "task_ignore_result": True,
        "task_serializer": "json",
        "accept_content": ["json"],  # a pickle from the broker would be code
        "worker_enable_remote_control": False,  # access to the broker must not steer workers
        "worker_send_task_events": False,
        "task_create_missing_queues": False,
        "task_default_queue": QUEUE,
        "task_default_exchange": QUEUE,
        "task_default_routing_key": QUEUE,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
    }


def _transport_options(socket_timeout_s: int) -> dict[str, Any]:
    return {
        "visibility_timeout": 3600,
        "unacked_restore_interval": 10,
        "unacked_restore_throttle": 1,
        "socket_connect_timeout": 2,
        # without it, a publish to a broker that accepts and never answers waits for ever
        "socket_timeout": socket_timeout_s,
        "socket_keepalive": True,
        "health_check_interval": 25,
        "max_connections": 10,
        "global_keyprefix": "loramill:",
    }


class Notifier(Protocol):
    """What tells workers of jobs: `Doorbell`, and the fakes of tests, which need no broker."""

    def notify(self, job_id: str) -> bool:
        """Tell the workers that a job waits, and give back whether the broker took the message.

        Never raises, and returns within the deadline.
        """
        ...

    def reaches_broker(self) -> bool:
        """Tell whether the broker answers, without sending anything; never raises, returns within the deadline."""
        ...


class Doorbell:
    """The `Notifier` by Celery, as far as the broker can be reached. Safe in many threads."""

    def __init__(self, settings: Settings, deadline_s: float = NOTIFY_DEADLINE_S) -> None:
        self._deadline_s = deadline_s
        self._places = threading.BoundedSemaphore(_MAX_SENDING)
        self._config = celery_config(settings) | {
            "broker_transport_options": _transport_options(socket_timeout_s=2),
            "task_publish_retry": False,
            "broker_connection_timeout": 2,
        }

    def notify(self, job_id: str) -> bool:
        return self._reach(job_id)

    def reaches_broker(self) -> bool:
        return self._reach(None)

    def _reach(self, job_id: str | None) -> bool:
        if not self._places.acquire(blocking=False):
            _log.warning("workers not notified: the broker has left earlier messages unanswered", job_id=job_id)
            return False
        reached = threading.Event()
        # daemon: a broker that never answers must not keep the process from ending
        reaching = threading.Thread(target=self._connect, args=(job_id, reached), name="doorbell", daemon=True)
        reaching.start()
        reaching.join(self._deadline_s)
        if reaching.is_alive():
            _log.warning("workers not notified: the broker does not answer", job_id=job_id, deadline_s=self._deadline_s)
        return reached.is_set()

    @cached_property
    def _celery(self) -> "Celery":
        from celery import Celery  # a sixth of the API's start, so the first message pays for it, in its own thread

        celery = Celery("loramill", set_as_current=False)
        celery.conf.update(self._config)
        return celery

    def _connect(self, job_id: str | None, reached: threading.Event) -> None:
        from kombu.exceptions import OperationalError  # see `_celery`

        try:
            with self._celery.connection_for_write() as connection:
                # One attempt: the worker's own polling and the sweeper are the retries.
                connection.ensure_connection(max_retries=1, interval_start=0, timeout=self._deadline_s)
                waiting = connection.default_channel.queue_declare(queue=QUEUE).message_count
                if job_id is not None and waiting < MAX_WAITING_MESSAGES:
                    self._celery.send_task(TASK_NAME, args=[job_id], connection=connection, retry=False)
            reached.set()
        except (OperationalError, OSError) as error:
            _log.warning("workers not notified: the broker cannot be reached", job_id=job_id, reason=str(error))
        finally:
            self._places.release()
