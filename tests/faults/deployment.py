"""A deployment for scenarios: one home, real API and worker processes, a real database, and fake trainers.

Knows how to start, break and ask it; what a scenario does with it is the scenario's matter.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import httpx2
from sqlalchemy import select

from core.base_models.registry import BaseModelEntry, Folder, Registry, compute_fingerprint
from core.process.bound import bound
from core.settings import Settings
from core.store import jobs, migrate
from core.store.blobs import LocalBlobStore
from core.store.db import Database
from core.store.tables import AdapterRecord, AttemptRecord, CheckpointRecord, EventRecord, JobRecord
from tests.faults.failpoints import failpoint
from tests.harness.models.byte_tokenizer import write_byte_tokenizer
from tests.harness.models.tiny_shapes import TINY_LLAMA, write_shapes
from tests.harness.servers.stack import eventually, free_port, tail
from worker.__main__ import worker_argv, worker_environment

BASE: Final = "tiny"
ROOT: Final = Path(__file__).resolve().parents[2]
API_COMMAND: Final = (sys.executable, "-m", "tests.faults.api_process")
WAIT_S: Final = 120.0
# lost processes are noticed in seconds; no broker, so that each worker looks by itself
QUICK: Final[dict[str, Any]] = {
    "heartbeat_s": 0.3,
    "lease_ttl_s": 4.0,
    "sweep_s": 0.5,
    "poll_s": 0.3,
    "stop_grace_s": 5.0,
}
FORMAT: Final = {"prompt": "{{question}}", "completion": "{{answer}}"}


def worker_command(settings: Settings) -> tuple[str, ...]:
    """Give the command of a worker whose trainers are fakes."""
    _, *arguments = worker_argv(settings)
    return (sys.executable, "-m", "worker.celery", "--app=tests.faults.worker_app", *arguments)


class FaultyDeployment:
    """One home and its processes, which end with the context that `deployed` opens."""

    def __init__(self, home: Path, **settings: Any) -> None:
        broker_url = f"redis+socket://{home / 'no-broker'}"
        usual: dict[str, Any] = {"home": home, "port": free_port(), "base_models": (BASE,), "broker_url": broker_url}
        self.settings = Settings(**(usual | QUICK | settings))
        self.home = home
        self.url = f"http://127.0.0.1:{self.settings.port}"
        self.client = httpx2.Client(base_url=self.url, timeout=30)
        self.processes: list[subprocess.Popen[bytes]] = []
        home.mkdir(parents=True, exist_ok=True)
        migrate.upgrade(self.settings.database)
        self.database = Database(self.settings.database)
        self._import_base()

    @property
    def blobs(self) -> LocalBlobStore:
        return LocalBlobStore(self.settings.store_folder)

    def _import_base(self) -> None:
        folder = self.settings.base_models_folder / BASE
        folder.mkdir(parents=True)
        source = Folder(path=folder)
        write_byte_tokenizer(folder)
        write_shapes(folder, TINY_LLAMA)
        imported = {
            "name": BASE,
            "fingerprint": compute_fingerprint(folder),
            "source": source.model_dump(mode="json"),
            "context_tokens": 512,
        }
        (folder / "loramill.json").write_text(json.dumps(imported))
        entry = BaseModelEntry(name=BASE, source=source, learning_rate=1e-3)
        Registry.load(self.settings.base_models_folder).add(entry)

    def environ(self, **changed: Any) -> dict[str, str]:
        """Give the environment of a process of this deployment; ``changed`` are settings that it has otherwise."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("LORAMILL_")}
        settings = self.settings.model_copy(update=changed)
        chosen = ("home", "port", "broker_url", *QUICK, *(["database_url"] if settings.database_url else []))
        own = {f"LORAMILL_{name.upper()}": str(getattr(settings, name)) for name in chosen}
        return {**clean, **own, "LORAMILL_BASE_MODELS": BASE, "PYTHONPATH": str(ROOT)}

    def start(self, name: str, command: Sequence[str], **changed: Any) -> subprocess.Popen[bytes]:
        """Start a process that ends with the deployment; its output is the log of this name."""
        with self.log(name).open("ab") as output:
            process = subprocess.Popen(
                bound(list(command)),
                env=worker_environment(self.environ(**changed)),
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def log(self, name: str) -> Path:
        return self.home.with_name(f"{self.home.name}-{name}.log")  # beside the home: its disk may be full

    def start_api(self) -> subprocess.Popen[bytes]:
        process = self.start("api", API_COMMAND)
        self.wait_for(self.is_alive, "an answer of the API", "api")
        return process

    def start_worker(self, name: str = "worker", **changed: Any) -> subprocess.Popen[bytes]:
        return self.start(name, worker_command(self.settings), **changed)

    def is_alive(self) -> bool:
        try:
            return bool(self.client.get("/livez").status_code == 200)
        except httpx2.TransportError:
            return False

    def arm(self, name: str) -> None:
        """Arm a failpoint."""
        failpoint(self.home, name).touch()

    def is_armed(self, name: str) -> bool:
        return failpoint(self.home, name).exists()

    def upload(self, **behaviour: Any) -> str:
        """Upload a file whose fake trainer behaves like this; give its id."""
        response = self.client.post(
            "/v1/files", files={"file": ("data.jsonl", example_file(**behaviour))}, data={"purpose": "fine-tune"}
        )
        assert response.status_code == 200, response.text
        return str(response.json()["id"])

    def create_job(self, file_id: str, key: str | None = None) -> str:
        """Have a job accepted; give its id."""
        response = self.client.post("/v1/fine_tuning/jobs", json=job_body(file_id), headers=key_header(key))
        assert response.status_code == 200, response.text
        return str(response.json()["id"])

    def wait_for(self, holds: Callable[[], bool], what: str, *logs: str, within_s: float = WAIT_S) -> None:
        """Wait for something that must come about; if it does not, tell the ends of the logs."""
        try:
            eventually(holds, what, within_s)
        except AssertionError as failure:
            for name in logs or ("api", "worker"):
                if self.log(name).exists():
                    failure.add_note(f"--- {name}:\n{tail(self.log(name))}")
            raise

    def wait_for_status(self, job_ids: Sequence[str], *statuses: str, within_s: float = WAIT_S) -> None:
        """Wait until each of these jobs has one of these statuses."""

        def settled() -> bool:
            return all(self.job(job_id).status in statuses for job_id in job_ids)

        self.wait_for(settled, f"{' or '.join(statuses)} of {len(job_ids)} jobs", within_s=within_s)

    def job(self, job_id: str) -> JobRecord:
        with self.database.read() as session:
            return jobs.get(session, job_id)

    def attempts(self, job_id: str) -> Sequence[AttemptRecord]:
        with self.database.read() as session:
            return session.scalars(select(AttemptRecord).filter_by(job_id=job_id).order_by(AttemptRecord.token)).all()

    def events(self, job_id: str) -> Sequence[EventRecord]:
        with self.database.read() as session:
            return session.scalars(select(EventRecord).filter_by(job_id=job_id).order_by(EventRecord.seq)).all()

    def adapters(self, job_id: str) -> Sequence[AdapterRecord]:
        with self.database.read() as session:
            return session.scalars(select(AdapterRecord).filter_by(job_id=job_id)).all()

    def checkpoints(self, job_id: str) -> Sequence[CheckpointRecord]:
        with self.database.read() as session:
            rows = select(CheckpointRecord).filter_by(job_id=job_id).order_by(CheckpointRecord.step)
            return session.scalars(rows).all()

    def steps_of(self, job_id: str) -> int:
        """Give the newest step that the job has told of, 0 before the first."""
        return int((self.job(job_id).progress or {}).get("step", 0))

    def end(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()
        self.client.close()
        self.database.dispose()


@contextlib.contextmanager
def deployed(home: Path, **settings: Any) -> Iterator[FaultyDeployment]:
    """Open a deployment in which nothing runs yet."""
    deployment = FaultyDeployment(home, **settings)
    try:
        yield deployment
    finally:
        deployment.end()


def example_file(**behaviour: Any) -> bytes:
    """Give a file whose first line tells the fake trainer how to behave."""
    first = {"question": "q", "answer": "a", **behaviour}
    unread = dict.fromkeys(behaviour, "")  # a column is in every line
    others = [{"question": f"q{number}", "answer": f"a{number}", **unread} for number in range(12)]
    return b"".join(json.dumps(line).encode() + b"\n" for line in (first, *others))


def job_body(file_id: str) -> dict[str, Any]:
    return {"model": BASE, "training_file": file_id, "prompt_format": FORMAT}


def key_header(key: str | None) -> dict[str, str]:
    return {} if key is None else {"Idempotency-Key": key}
