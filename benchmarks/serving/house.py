"""A home folder with a base model and published adapters in it, and the whole product running over it.

The jobs that the adapters would come from are written into the database as their worker would have.
"""

import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter

from benchmarks.serving.adapter_spec import AdapterSpec
from benchmarks.serving.servers import Server, free_port
from benchmarks.training.processes import run_module
from core.base_models import BaseModelEntry, Folder, Registry, read_imported
from core.jobs import FileRef, JobSpec, LoraSpec
from core.settings import Settings
from core.store import files, jobs, leases, migrate
from core.store.blobs import LocalBlobStore
from core.store.db import Database
from core.store.tables import FileStatus
from worker.publishing import StoredAdapter, store_adapter

EXAMPLES: Final = b'{"prompt": "p", "completion": "c"}\n'


@dataclass(frozen=True)
class House:
    """A home folder; ``base_model`` is its base model's name, which requests name."""

    home: Path
    base: Path
    base_model: str

    @property
    def adapters_folder(self) -> Path:
        return self.home / "adapters"

    @property
    def settings(self) -> Settings:
        return Settings(home=self.home)

    def server(self, name: str, **environ: str) -> Server:
        """Describe the whole product: broker, engine, worker and API."""
        port = free_port()
        own = {
            "LORAMILL_HOME": str(self.home),
            "LORAMILL_PORT": str(port),
            "LORAMILL_BASE_MODELS": self.base_model,
            "LORAMILL_LOG_LEVEL": "warning",
        }
        return Server(name, (sys.executable, "-m", "app", "up"), port, "/readyz", own | environ)

    def publish(self, specs: Sequence[AdapterSpec]) -> dict[str, str]:
        """Write adapters, store them, and name them in the database; give their model names by their own."""
        listed = self.home / "specs.json"
        listed.write_bytes(TypeAdapter(list[AdapterSpec]).dump_json(list(specs)))
        run_module("benchmarks.serving.adapters", str(self.base), str(self.adapters_folder), f"@{listed}")
        blobs = LocalBlobStore(self.settings.store_folder)
        stored = {spec.name: store_adapter(blobs, self.adapters_folder / spec.name) for spec in specs}
        database = Database(self.settings.database)
        try:
            return _name_adapters(database, blobs, self.base_model, stored)
        finally:
            database.dispose()


def build_house(home: Path, base: Path) -> House:
    """Make a home folder that has an imported base model and an empty database."""
    home.mkdir(parents=True, exist_ok=True)
    imported = read_imported(base)
    house = House(home, base, imported.name)
    folder = house.settings.base_models_folder
    folder.mkdir(parents=True)
    (folder / imported.name).symlink_to(base.absolute(), target_is_directory=True)
    registry = Registry.load(folder)
    if imported.name not in registry.names:
        if not isinstance(imported.source, Folder):
            raise ValueError(f"{base} is no folder that a registry can name")
        registry.add(BaseModelEntry(name=imported.name, source=imported.source))
    migrate.upgrade(house.settings.database)
    return house


def _name_adapters(
    database: Database, blobs: LocalBlobStore, base_model: str, stored: Mapping[str, StoredAdapter]
) -> dict[str, str]:
    """Write, for each adapter, a job that has succeeded with it."""
    names = {}
    with database.write() as session:
        blob = blobs.put_bytes(EXAMPLES)
        file = files.create(
            session,
            caller="benchmark",
            filename="examples.jsonl",
            purpose="fine-tune",
            bytes=len(EXAMPLES),
            sha256=hashlib.sha256(EXAMPLES).hexdigest(),
            status=FileStatus.PROCESSED,
            status_details=None,
            file_type="jsonl",
            example_format="prompt_completion",
            columns=None,
            examples=1,
            now=1,
        )
        ref = FileRef(id=file.id, sha256=blob.sha256, examples=1, file_type="jsonl")
        for name, adapter in stored.items():
            names[name] = f"ft:{base_model}:benchmark:{name}"
            job = _create_job(session, ref, base_model, name)
            leases.claim(session, owner="benchmark", host="", pid=0, base_models=[base_model], now=1)
            leases.publish(
                session,
                job,
                1,
                adapter_sha256=adapter.sha256,
                bytes=adapter.bytes,
                name=names[name],
                trained_on="random numbers",
                trained_tokens=1,
                result={},
                now=1,
            )
    return names


def _create_job(session: Any, file: FileRef, base_model: str, name: str) -> str:
    spec = JobSpec(
        base_model=base_model,
        training_file=file,
        validation_file=None,
        n_epochs=1,
        batch_size=1,
        learning_rate=1e-4,
        learning_rate_multiplier=1.0,
        lora=LoraSpec(),
        prompt_loss_weight=0.0,
        train_on="all_assistant",
        prompt_format=None,
        max_length=128,
        over_length="drop",
        seed=0,
    )
    job = jobs.create(
        session,
        caller="benchmark",
        spec=spec,
        requested={"model": base_model, "training_file": file.id},
        request_sha256=hashlib.sha256(name.encode()).hexdigest(),
        suffix=None,
        metadata=None,
        now=1,
    )
    return job.id
