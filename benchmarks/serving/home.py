"""A home folder with a base model and published adapters in it, and the whole product running over it.

The jobs that the adapters would come from are written into the database as their worker would have.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from benchmarks.host.processes import run_module
from benchmarks.serving.adapter_spec import AdapterSpec
from benchmarks.serving.over_http.servers import Server, free_port
from core.base_models.registry import BaseModelEntry, Folder, Registry, read_imported
from core.jobs.attempt import StoredAdapter
from core.settings import Settings
from core.store import migrate
from core.store.blobs import LocalBlobStore
from core.store.db import Database
from tests.harness.models.published_model import publish
from worker.jobs.blob_transfer import store_adapter


@dataclass(frozen=True)
class ServedHome:
    """A home folder; ``base_model`` is its base model's name, which requests name."""

    folder: Path
    base: Path
    base_model: str

    @property
    def adapters_folder(self) -> Path:
        return self.folder / "adapters"

    @property
    def settings(self) -> Settings:
        return Settings(home=self.folder)

    def server(self, name: str, **environ: str) -> Server:
        """Describe the whole product: broker, engine, worker and API."""
        port = free_port()
        own = {
            "LORAMILL_HOME": str(self.folder),
            "LORAMILL_PORT": str(port),
            "LORAMILL_BASE_MODELS": self.base_model,
            "LORAMILL_LOG_LEVEL": "warning",
        }
        return Server(name, (sys.executable, "-m", "app", "up"), port, "/readyz", own | environ)

    def publish(self, specs: Sequence[AdapterSpec]) -> dict[str, str]:
        """Write adapters, store them, and name them in the database; give their model names by their own."""
        listed = self.folder / "specs.json"
        listed.write_bytes(TypeAdapter(list[AdapterSpec]).dump_json(list(specs)))
        run_module("benchmarks.serving.adapters", str(self.base), str(self.adapters_folder), f"@{listed}")
        blobs = LocalBlobStore(self.settings.store_folder)
        stored = {spec.name: store_adapter(blobs, self.adapters_folder / spec.name) for spec in specs}
        database = Database(self.settings.database)
        try:
            return _name_adapters(database, self.base_model, stored)
        finally:
            database.dispose()


def build_home(folder: Path, base: Path) -> ServedHome:
    """Make a home folder that has an imported base model and an empty database."""
    folder.mkdir(parents=True, exist_ok=True)
    imported = read_imported(base)
    home = ServedHome(folder, base, imported.name)
    base_models = home.settings.base_models_folder
    base_models.mkdir(parents=True)
    (base_models / imported.name).symlink_to(base.absolute(), target_is_directory=True)
    registry = Registry.load(base_models)
    if imported.name not in registry.names:
        if not isinstance(imported.source, Folder):
            raise ValueError(f"{base} is no folder that a registry can name")
        registry.add(BaseModelEntry(name=imported.name, source=imported.source))
    migrate.upgrade(home.settings.database)
    return home


def _name_adapters(database: Database, base_model: str, stored: Mapping[str, StoredAdapter]) -> dict[str, str]:
    """Write, for each adapter, a job that has succeeded with it."""
    names = {name: f"ft:{base_model}:benchmark:{name}" for name in stored}
    with database.write() as session:
        for name, adapter in stored.items():
            publish(session, names[name], adapter.sha256, base_model)
    return names
