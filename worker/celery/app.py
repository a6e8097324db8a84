"""The worker's Celery application. Importing it reads the settings and connects to nothing."""

import signal
from types import FrameType
from typing import Any

from celery import Celery, bootsteps
from celery.signals import setup_logging

from core.dispatch.doorbell import celery_config
from core.process import logs
from core.settings import load_settings
from worker.celery.background import Background

settings = load_settings()


class BackgroundStep(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery ships no types
    """Starts the background threads before Celery's consumer, which waits for the broker, and stops them."""

    requires = ("celery.worker.components:Pool",)
    background: Background | None = None

    def start(self, worker: Any) -> None:
        self.background = Background(settings)
        self.background.start()
        self._stop_first_on_signals(self.background)

    def stop(self, worker: Any) -> None:
        if self.background is not None:
            self.background.stop()

    def terminate(self, worker: Any) -> None:
        self.stop(worker)

    def _stop_first_on_signals(self, background: Background) -> None:
        """Have SIGINT do what SIGTERM does, and both first keep the poll from taking another job.

        Celery's own handler waits for the pool, and a job that the pool releases meanwhile would
        be claimed by the poll again.
        """
        celerys_handler = signal.getsignal(signal.SIGTERM)
        assert callable(celerys_handler)

        def stop_first(signum: int, frame: FrameType | None) -> None:
            background.request_stop()
            celerys_handler(signum, frame)

        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(signum, stop_first)


def _set_up_logs(**_details: Any) -> None:
    logs.setup(settings, "worker")


app = Celery("loramill", include=["worker.celery.tasks"])
app.conf.update(celery_config(settings))
app.steps["worker"].add(BackgroundStep)
# A receiver keeps Celery from setting logging up itself; weak=False because nothing else refers to this one.
setup_logging.connect(_set_up_logs, weak=False)
