"""A deployment whose engine is scripted: an API's database and store, a base model's tokenizer, and a worker."""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import select

from core.base_models.registry import IMPORTED_FILE, BaseModelEntry, Folder, ImportedModel, Registry
from core.evaluations.scores import ModelScores
from core.evaluations.spec import EvaluationSpec
from core.jobs.kind import JobKind
from core.jobs.spec import FileRef
from core.settings import Settings
from core.store import evaluations as store
from core.store import files, jobs
from core.store.blobs import BlobStore
from core.store.db import Database
from core.store.files import NewFile
from core.store.jobs import NewJob
from core.store.queue import control
from core.store.references.recorded import open_recorded
from core.store.tables import EventRecord, JobRecord
from tests.app.conftest import serving
from tests.harness import fake_trainer
from tests.harness.evaluation_specs import make_evaluation_spec
from tests.harness.migrated import write_migrated
from tests.harness.models.byte_tokenizer import write_byte_tokenizer
from tests.harness.stub_engine import ServedStub
from worker.evaluating.runner import evaluations
from worker.inference.metrics.engine_metrics import EngineMetrics
from worker.inference.server import create_app as create_engine_app
from worker.jobs.duty import run_next
from worker.jobs.runtime import WorkerRuntime
from worker.trainer_process.stop import StopFlag

BASE = "tiny"
NOW = 1_800_000_000
REFERENCES = (" one two three", "no")  # of the rows by turns; the scripted engine answers the first


@dataclass
class EvaluationHome:
    """One deployment. Rows are ``p1``, ``p2``, …; ``engine`` answers each of them with ``" one two three"``."""

    settings: Settings
    database: Database
    blobs: BlobStore
    engine: ServedStub = field(default_factory=ServedStub)

    @classmethod
    def make(cls, home: Path, **settings: Any) -> "EvaluationHome":
        chosen = Settings(home=home, base_models=(BASE,), heartbeat_s=0.2, sweep_s=0.2, **settings)
        home.mkdir(parents=True, exist_ok=True)
        write_migrated(home / "loramill.db")
        database = Database(chosen.database)
        folder = chosen.base_models_folder / BASE
        write_byte_tokenizer(folder)
        model = ImportedModel(name=BASE, fingerprint="0" * 64, source=Folder(path=Path("/")), context_tokens=256)
        (folder / IMPORTED_FILE).write_text(model.model_dump_json())
        entry = BaseModelEntry(name=BASE, source=Folder(path=folder), learning_rate=1e-3)
        Registry.load(chosen.base_models_folder).add(entry)
        return cls(chosen, database, open_recorded(chosen.store_folder, database))

    def queue(self, rows: int = 4, **fields: Any) -> str:
        """Queue an evaluation of so many rows; ``fields`` are its specification's."""
        return self.queue_answers([REFERENCES[n % 2] for n in range(rows)], **fields)

    def queue_answers(self, answers: Sequence[str], **fields: Any) -> str:
        """Queue an evaluation of rows with these references."""
        ref = self.store_rows(answers)
        spec = make_evaluation_spec(ref, **{"lines": tuple(range(1, len(answers) + 1))} | fields)
        with self.database.write() as session:
            return jobs.create(session, NewJob("tests", spec, {}, "0" * 64), NOW).id

    def store_rows(self, answers: Sequence[str], prompt: str = "p") -> FileRef:
        """Store a file of the prompts ``p1``, ``p2``, … with these answers."""
        lines = [{"prompt": f"{prompt}{n + 1}", "completion": answer} for n, answer in enumerate(answers)]
        blob = self.blobs.put_bytes("".join(json.dumps(line) + "\n" for line in lines).encode())
        new = NewFile(
            "tests", "rows.jsonl", "fine-tune", blob, "jsonl", example_format="prompt_completion", examples=len(lines)
        )
        with self.database.write() as session:
            file = files.create(session, new, NOW)
            return FileRef(id=file.id, sha256=blob.sha256, examples=len(lines), file_type="jsonl")

    def lose(self, sha256: str) -> None:
        """Delete stored bytes, as a collector does once their file is deleted."""
        with self.blobs.alone(0):
            self.blobs.delete(sha256)

    @contextmanager
    def serving_engine(self, port: int = 0) -> Iterator[str]:
        """Serve the scripted engine, on a free port or on this one."""
        with serving(create_engine_app(self.engine, EngineMetrics()), port) as url:
            yield url

    def worker(self, url: str | None) -> WorkerRuntime:
        """Give a worker that knows the engine at ``url``; None: none."""
        settings = self.settings.model_copy(update={"engine_urls": {} if url is None else {BASE: url}})
        return WorkerRuntime(settings, self.database, self.blobs, fake_trainer.COMMAND)

    def run(self, url: str | None, stop: StopFlag | None = None) -> bool:
        """Run the next evaluation; tell whether there was one."""
        worker = self.worker(url)
        return run_next(worker, stop or StopFlag(), evaluations(worker.settings))

    def run_beside(self, url: str | None, stop: StopFlag | None = None) -> threading.Thread:
        """Begin to run the next evaluation in a thread."""
        thread = threading.Thread(target=self.run, args=(url, stop))
        thread.start()
        return thread

    def job(self, job_id: str) -> JobRecord:
        with self.database.read() as session:
            return jobs.get(session, job_id, JobKind.EVALUATION)

    def cancel(self, job_id: str) -> None:
        with self.database.write() as session:
            control.cancel(session, job_id, NOW, JobKind.EVALUATION)

    def scored(self, job_id: str) -> set[tuple[int, int]]:
        with self.database.read() as session:
            return store.list_scored(session, job_id)

    def scores(self, job_id: str) -> list[ModelScores]:
        spec = EvaluationSpec.model_validate(self.job(job_id).spec)
        with self.database.read() as session:
            return store.list_scores(session, job_id, [model.name for model in spec.models], spec.judged_rows)

    def messages(self, job_id: str) -> Sequence[str]:
        with self.database.read() as session:
            found = select(EventRecord.message).filter_by(job_id=job_id).order_by(EventRecord.seq)
            return session.scalars(found).all()
