"""A whole API on a real database and blob store, with a scripted engine and a recording doorbell."""

import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest
import uvicorn
from fastapi import FastAPI
from pydantic import SecretStr
from starlette.testclient import TestClient
from starlette.types import ASGIApp

from app.engines.routing import Engines
from app.http.alias_answers import AliasAnswers
from app.http.runtime import ApiRuntime
from app.http.write_probe import WriteProbe
from app.main import create_app
from core.base_models.registry import BaseModelEntry, Folder, Registry
from core.listening.connections import Connections
from core.listening.protocol import Guard
from core.settings import Settings
from core.store.blobs import BlobStore
from core.store.db import Database
from core.store.references.recorded import open_recorded
from tests.app.shared_routes import share_routes
from tests.app.status_recorder import StatusRecorder
from tests.harness.migrated import write_migrated
from tests.harness.models.byte_tokenizer import write_byte_tokenizer
from tests.harness.models.published_model import publish
from tests.harness.models.tiny_shapes import TINY_LLAMA, write_shapes
from tests.harness.servers.live_api import LiveApi
from tests.harness.stub_engine import StubEngine

BASE = "tiny"
LOCAL = "http://127.0.0.1:8000"  # for clients in this process: without a key, only such hosts are answered to
LEARNING_RATE = 1e-3
CONTEXT_TOKENS = 512
EXAMPLES = b"".join(b'{"prompt": "p%d", "completion": " c%d"}\n' % (n, n) for n in range(100))
COLUMNS = b'{"question": "q", "answer": "a"}\n' * 3


class RecordingNotifier:
    """Remembers of which jobs it was to notify workers."""

    def __init__(self) -> None:
        self.notified: list[str] = []
        self.reaches = True

    def notify(self, job_id: str) -> bool:
        self.notified.append(job_id)
        return self.reaches

    def reaches_broker(self) -> bool:
        return self.reaches


@dataclass
class ApiHarness:
    """What an app under test works on; tests change it and look into it."""

    settings: Settings
    database: Database
    blobs: BlobStore
    registry: Registry
    engine: StubEngine = field(default_factory=StubEngine)
    notifier: RecordingNotifier = field(default_factory=RecordingNotifier)
    undocumented: list[str] = field(default_factory=list)  # answers that the API's description has not

    def app(self) -> FastAPI:
        @asynccontextmanager
        async def opener(settings: Settings) -> AsyncIterator[ApiRuntime]:
            yield ApiRuntime(
                settings=settings,
                database=self.database,
                blobs=self.blobs,
                registry=self.registry,
                engines=Engines({BASE: self.engine}),
                doorbell=self.notifier,
                writes=WriteProbe(self.database),
                alias_answers=AliasAnswers(self.database),
            )

        app = create_app(self.settings, opener)
        share_routes(app)
        app.add_middleware(StatusRecorder, described=app, undocumented=self.undocumented)
        return app

    def stored_bytes(self) -> list[Path]:
        """List every file of the blob store, unfinished ones included."""
        return [path for path in self.settings.store_folder.rglob("*") if path.is_file()]


def _settings_of(home: Path) -> Settings:
    return Settings(home=home, base_models=(BASE,), max_upload_bytes=64 * 1024)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return _settings_of(tmp_path)


@pytest.fixture
def harness(settings: Settings) -> Iterator[ApiHarness]:
    with _open_harness(settings) as harness:
        yield harness


@contextmanager
def _open_harness(settings: Settings) -> Iterator[ApiHarness]:
    write_migrated(settings.home / "loramill.db")
    database = Database(settings.database)
    registry = Registry(settings.base_models_folder, (import_base(settings),))
    harness = ApiHarness(settings, database, open_recorded(settings.store_folder, database), registry)
    yield harness
    database.dispose()
    assert harness.undocumented == []


def import_base(settings: Settings) -> BaseModelEntry:
    folder = settings.base_models_folder / BASE
    folder.mkdir(parents=True)
    source = Folder(path=folder)
    imported = {
        "name": BASE,
        "fingerprint": "0" * 64,
        "source": source.model_dump(mode="json"),
        "context_tokens": CONTEXT_TOKENS,
    }
    (folder / "loramill.json").write_text(json.dumps(imported))
    write_byte_tokenizer(folder)
    write_shapes(folder, TINY_LLAMA)
    return BaseModelEntry(name=BASE, source=source, learning_rate=LEARNING_RATE)


@pytest.fixture
def client(harness: ApiHarness) -> Iterator[TestClient]:
    with TestClient(harness.app(), base_url=LOCAL) as client:
        yield client


def upload(
    client: TestClient, content: bytes = EXAMPLES, purpose: str = "fine-tune", filename: str = "data.jsonl"
) -> httpx2.Response:
    return client.post("/v1/files", files={"file": (filename, content)}, data={"purpose": purpose})


@pytest.fixture
def file_id(client: TestClient) -> str:
    """Id of an uploaded file of 100 examples."""
    return str(upload(client).json()["id"])


@contextmanager
def serving(app: ASGIApp, port: int = 0) -> Iterator[str]:
    """Serve an app on a port of the loopback interface, 0 for a free one, as the product does, and give its URL."""
    protocol = Guard(Connections(1000), lambda error: str(error).encode()).protocol
    server = uvicorn.Server(uvicorn.Config(app, port=port, http=protocol, ws="none", log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def live_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveApi]:
    """Give official clients a deployment on a socket, with a key and a fine-tuned model."""
    api_key, tuned = "correct-horse-battery", "ft:tiny:local:mine:1"
    with _open_harness(_settings_of(tmp_path_factory.mktemp("live_api"))) as harness:
        harness.settings = harness.settings.model_copy(update={"api_key": SecretStr(api_key)})
        with harness.database.write() as session:
            publish(session, tuned)
        with serving(harness.app()) as url:
            yield LiveApi(url=url, api_key=api_key, base=BASE, tuned=tuned)
