"""A database, a store and jobs for the worker's tests; trainers are fakes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from core.base_models.registry import IMPORTED_FILE, Folder, ImportedModel, compute_fingerprint
from core.estimates.estimate import Estimate
from core.jobs.spec import AdapterRef, FileRef, JobSpec
from core.settings import Settings
from core.store import files, jobs
from core.store.db import Database
from core.store.files import NewFile
from core.store.jobs import NewJob
from core.store.queue import control
from core.store.references.recorded import open_recorded
from core.store.tables import AdapterRecord, AttemptRecord, CheckpointRecord, EventRecord, JobRecord
from tests.harness import fake_trainer
from tests.harness.job_specs import make_job_spec
from tests.harness.migrated import write_migrated
from worker.jobs.runtime import WorkerRuntime

BASE_MODEL = "smollm2-135m-instruct"
NOW = 1_800_000_000


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings whose leases last long enough that none ends by itself."""
    return Settings(home=tmp_path / "home", heartbeat_s=0.2, stop_grace_s=5, poll_s=0.3, sweep_s=0.2)


@pytest.fixture
def home(settings: Settings) -> "Home":
    return Home(settings)


def import_base_model(settings: Settings) -> None:
    """Put a base model into its place that verifies and that nobody can train."""
    folder = settings.base_models_folder / BASE_MODEL
    folder.mkdir(parents=True)
    header = json.dumps({"weight": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"w")
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_text("{}")
    fingerprint = compute_fingerprint(folder)
    model = ImportedModel(name=BASE_MODEL, fingerprint=fingerprint, source=Folder(path=Path("/")), context_tokens=64)
    (folder / IMPORTED_FILE).write_text(model.model_dump_json())


class Home:
    """One deployment's state, and what a test wants to know of it."""

    def __init__(self, settings: Settings) -> None:
        settings.home.mkdir(parents=True)
        write_migrated(settings.home / "loramill.db")
        self.settings = settings
        self.database = Database(settings.database)
        self.blobs = open_recorded(settings.store_folder, self.database)
        import_base_model(settings)

    def runtime(self, settings: Settings | None = None, **fields: Any) -> WorkerRuntime:
        usual: dict[str, Any] = {
            "settings": settings or self.settings,
            "database": self.database,
            "blobs": self.blobs,
            "trainer_command": fake_trainer.COMMAND,
        }
        return WorkerRuntime(**usual | fields)

    def queue(
        self,
        *,
        continue_from: AdapterRef | None = None,
        base_model_fingerprint: str | None = None,
        **behaviour: Any,
    ) -> str:
        """Queue a job whose fake trainer behaves like this; give its id."""
        ref = self.upload(**behaviour)
        spec = make_spec(ref, continue_from).model_copy(update={"base_model_fingerprint": base_model_fingerprint})
        return self.queue_spec(spec)

    def queue_spec(self, spec: JobSpec, estimate: Estimate | None = None, rerun_of: str | None = None) -> str:
        """Queue a job, and give its id."""
        with self.database.write() as session:
            new = NewJob("tests", spec, {}, "0" * 64, suffix="test", estimate=estimate, rerun_of=rerun_of)
            return jobs.create(session, new, NOW).id

    def queue_again(self, job_id: str) -> str:
        """Queue a rerun of a job, and give its id."""
        return self.queue_spec(JobSpec.model_validate(self.job(job_id).spec), rerun_of=job_id)

    def upload(self, **behaviour: Any) -> FileRef:
        """Store a training file that has fake trainers behave like this."""
        blob = self.blobs.put_bytes(json.dumps(behaviour).encode())
        with self.database.write() as session:
            new = NewFile(
                "tests", "examples.jsonl", "fine-tune", blob, "jsonl", example_format="prompt_completion", examples=1
            )
            file = files.create(session, new, NOW)
            return FileRef(id=file.id, sha256=blob.sha256, examples=1, file_type="jsonl")

    def job(self, job_id: str) -> JobRecord:
        with self.database.read() as session:
            return jobs.get(session, job_id)

    def events(self, job_id: str) -> Sequence[EventRecord]:
        with self.database.read() as session:
            return session.scalars(select(EventRecord).filter_by(job_id=job_id).order_by(EventRecord.seq)).all()

    def attempts(self, job_id: str) -> Sequence[AttemptRecord]:
        with self.database.read() as session:
            return session.scalars(select(AttemptRecord).filter_by(job_id=job_id).order_by(AttemptRecord.token)).all()

    def checkpoints(self, job_id: str) -> Sequence[CheckpointRecord]:
        with self.database.read() as session:
            rows = select(CheckpointRecord).filter_by(job_id=job_id).order_by(CheckpointRecord.step)
            return session.scalars(rows).all()

    def adapters(self, job_id: str) -> Sequence[AdapterRecord]:
        with self.database.read() as session:
            return session.scalars(select(AdapterRecord).filter_by(job_id=job_id)).all()

    def cancel(self, job_id: str) -> None:
        with self.database.write() as session:
            control.cancel(session, job_id, NOW)

    def pause(self, job_id: str) -> None:
        with self.database.write() as session:
            control.pause(session, job_id, NOW)

    def resume(self, job_id: str) -> None:
        with self.database.write() as session:
            control.resume(session, job_id, NOW)


def make_spec(training_file: FileRef, continue_from: AdapterRef | None = None) -> JobSpec:
    return make_job_spec(training_file, base_model=BASE_MODEL, seed=1, continue_from=continue_from)
