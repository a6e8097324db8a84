"""A deployment with a tiny model and an adapter of it in its store, and a worker that exports."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import select

from core.base_models.registry import BaseModelEntry, Folder, Registry, folder_of, read_imported
from core.exports.spec import ExportSpec, TriedPrompt
from core.jobs.kind import JobKind
from core.jobs.spec import AdapterRef
from core.settings import Settings
from core.store import exports as store
from core.store import jobs, migrate
from core.store.blobs import LocalBlobStore
from core.store.db import Database
from core.store.jobs import NewJob
from core.store.references.recorded import open_recorded
from core.store.tables import EventRecord, JobRecord
from tests.core.store.references.deployment import StoreInUse
from tests.harness import fake_trainer
from tests.harness.models.tiny_models import write_tiny_llama
from tests.worker.inference.adapters.adapter_files import write_adapter
from worker.exports.runner import ExportAttempt, exports
from worker.jobs.duty import Duty, EveryHost, run_next
from worker.jobs.runtime import WorkerRuntime
from worker.trainer_process.stop import StopFlag

BASE = "tiny"
NOW = 1_800_000_000


@dataclass
class ExportHome:
    """One deployment; ``model`` is a fine-tuned model whose adapter is ``digest``."""

    settings: Settings
    database: Database
    blobs: LocalBlobStore
    model: str
    digest: str

    @classmethod
    def make(cls, home: Path, **settings: Any) -> "ExportHome":
        chosen = Settings(home=home, base_models=(BASE,), heartbeat_s=0.2, sweep_s=0.2, **settings)
        home.mkdir(parents=True, exist_ok=True)
        migrate.upgrade(chosen.database)
        folder = write_tiny_llama(folder_of(chosen.base_models_folder, BASE))
        Registry.load(chosen.base_models_folder).add(BaseModelEntry(name=BASE, source=Folder(path=folder)))
        database = Database(chosen.database)
        blobs = open_recorded(chosen.store_folder, database)
        in_use = StoreInUse(database, blobs)
        digest = write_adapter(folder, home / "adapter")
        model = in_use.publish(in_use.claimed(), home / "adapter")
        return cls(chosen, database, blobs, model, digest)

    def spec(self, **fields: Any) -> ExportSpec:
        said: dict[str, Any] = {
            "model": self.model,
            "base_model": BASE,
            "base_model_fingerprint": read_imported(folder_of(self.settings.base_models_folder, BASE)).fingerprint,
            "adapter": AdapterRef(name=self.model, adapter_sha256=self.digest),
            "format": "gguf",
            "type": "lora",
            "prompts": (TriedPrompt(part="general", ids=tuple(b"Hello there")),),
        }
        return ExportSpec(**said | fields)

    def queue(self, **fields: Any) -> str:
        with self.database.write() as session:
            return jobs.create(session, NewJob("tests", self.spec(**fields), {}, "0" * 64), NOW).id

    @property
    def worker(self) -> WorkerRuntime:
        return WorkerRuntime(self.settings, self.database, self.blobs, fake_trainer.COMMAND)

    def run(self, command: tuple[str, ...] | None = None, stop: StopFlag | None = None) -> bool:
        """Run the next export, by the real exporter or by another command; tell whether there was one."""
        duty = exports(self.settings)
        if command is not None:
            duty = Duty(duty.kind, EveryHost((BASE,)), partial(ExportAttempt, command=command))
        return run_next(self.worker, stop or StopFlag(), duty)

    def job(self, job_id: str) -> JobRecord:
        with self.database.read() as session:
            return jobs.get(session, job_id, JobKind.EXPORT)

    def files(self, job_id: str) -> dict[str, str]:
        """Give the digests of an export's files by their names."""
        with self.database.read() as session:
            return {name: file.sha256 for name, file in store.list_files(session, [job_id])[job_id].items()}

    def messages(self, job_id: str) -> list[str]:
        with self.database.read() as session:
            found = select(EventRecord.message).filter_by(job_id=job_id).order_by(EventRecord.seq)
            return list(session.scalars(found))
