"""What one API process holds while it runs: opened once at its start, closed at its end."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from app.engines.routing import Engines
from app.http.alias_answers import AliasAnswers
from app.http.write_probe import WriteProbe
from core.base_models.registry import Registry
from core.dispatch.doorbell import Doorbell, Notifier
from core.dispatch.sweeper import Sweeper
from core.serving.text_readers import TextReaders
from core.settings import Settings
from core.store.blobs import BlobStore
from core.store.db import Database
from core.store.references.recorded import open_recorded
from core.store.revisions import check_schema


@dataclass(frozen=True)
class ApiRuntime:
    """The parts that requests work with; all of them can be used by many threads."""

    settings: Settings
    database: Database
    blobs: BlobStore
    registry: Registry
    engines: Engines
    doorbell: Notifier
    writes: WriteProbe
    alias_answers: AliasAnswers
    readers: TextReaders = field(default_factory=TextReaders)


@asynccontextmanager
async def open_runtime(settings: Settings) -> AsyncIterator[ApiRuntime]:
    """Open everything a process needs; sweep for lost jobs, and write down what is counted, as long as it lives.

    Raises:
        DatabaseUnavailable: the database cannot be reached, or its schema is not this version's.
        BaseModelInvalid: the operator's ``base_models.toml`` is malformed.
    """
    await asyncio.to_thread(check_schema, settings.database)
    database = Database(settings.database)
    doorbell = Doorbell(settings)
    blobs = open_recorded(settings.store_folder, database)
    engines = Engines.connect(settings, blobs)
    alias_answers = AliasAnswers(database)
    stop = threading.Event()
    sweeper = Sweeper(database, blobs, doorbell, settings)
    threads = [
        threading.Thread(target=work, args=(stop,), name=name, daemon=True)
        for name, work in (("sweeper", sweeper.run), ("alias-answers", alias_answers.run))
    ]
    for thread in threads:
        thread.start()
    try:
        yield ApiRuntime(
            settings=settings,
            database=database,
            blobs=blobs,
            registry=Registry.load(settings.base_models_folder),
            engines=engines,
            doorbell=doorbell,
            writes=WriteProbe(database),
            alias_answers=alias_answers,
        )
    finally:
        stop.set()
        for thread in threads:
            await asyncio.to_thread(thread.join)
        await engines.close()
        database.dispose()
