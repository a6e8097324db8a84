"""Exports from a terminal to a file: the API on a socket, a worker, and the exporter's own process."""

import json
import tarfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from app.cli.client import Client
from app.cli.models.make_export import make_export
from app.engines.routing import Engines
from app.http.alias_answers import AliasAnswers
from app.http.runtime import ApiRuntime
from app.http.write_probe import WriteProbe
from app.main import create_app
from core.base_models.registry import Registry
from core.errors import StartRefused
from core.settings import Settings
from tests.app.conftest import RecordingNotifier, serving
from tests.worker.exports.deployment import ExportHome
from tests.worker.exports.test_runner import program
from worker.exporter.gguf_reading import GgufFile, read_model


@pytest.fixture
def home(tmp_path: Path) -> Iterator[ExportHome]:
    home = ExportHome.make(tmp_path / "home")
    yield home
    home.database.dispose()


@pytest.fixture
def client(home: ExportHome) -> Iterator[Client]:
    @asynccontextmanager
    async def opener(settings: Settings) -> AsyncIterator[ApiRuntime]:
        yield ApiRuntime(
            settings=settings,
            database=home.database,
            blobs=home.blobs,
            registry=Registry.load(settings.base_models_folder),
            engines=Engines({}),
            doorbell=RecordingNotifier(),
            writes=WriteProbe(home.database),
            alias_answers=AliasAnswers(home.database),
        )

    with serving(create_app(home.settings, opener)) as url, Client(url, None) as client:
        yield client


@pytest.fixture
def working(home: ExportHome) -> Iterator[None]:
    """Have a worker look for exports meanwhile."""
    over = threading.Event()

    def work() -> None:
        while not over.wait(0.05):
            home.run()

    thread = threading.Thread(target=work)
    thread.start()
    yield
    over.set()
    thread.join(60)


def export(client: Client, home: ExportHome, target: Path, **body: str) -> None:
    make_export(client, home.model, target, body, wait=lambda _: time.sleep(0.05))


@pytest.mark.usefixtures("working")
def test_a_terminal_gets_a_gguf_that_was_tried(
    client: Client, home: ExportHome, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out"
    export(client, home, target, format="gguf", type="q8_0")
    assert {path.name for path in target.iterdir()} == {"model.gguf", "Modelfile", "manifest.json", "export.json"}
    model, roundings = read_model(GgufFile(target / "model.gguf"))
    assert roundings["model.layers.0.self_attn.q_proj.weight"] == "q8_0"
    assert model.config.num_hidden_layers == 2
    told = json.loads((target / "export.json").read_text())
    assert {prompt["part"] for prompt in told["tried"]["prompts"]} == {"general"}  # its file was no training's
    assert f"{home.model} is in {target}. On 4 prompts" in capsys.readouterr().out.replace("\n", "")


@pytest.mark.usefixtures("working")
def test_vllms_folder_is_named_by_the_digest(client: Client, home: ExportHome, tmp_path: Path) -> None:
    export(client, home, tmp_path / "out.tar", format="vllm")
    with tarfile.open(tmp_path / "out.tar") as tar:
        assert sorted(tar.getnames()) == [
            f"{home.digest}/adapter_config.json",
            f"{home.digest}/adapter_model.safetensors",
            "export.json",
        ]


def test_an_export_that_fails_leaves_nothing_and_says_why(client: Client, home: ExportHome, tmp_path: Path) -> None:
    said = b'{"run": 0, "message": {"type": "failed", "code": "export_differs", "message": "it is another"}}\n'
    failing = program(f"os.write(fd, {said!r}); sys.exit(1)")

    def work() -> None:
        while not home.run(failing):
            time.sleep(0.05)

    thread = threading.Thread(target=work)
    thread.start()
    with pytest.raises(StartRefused, match="failed: it is another"):
        export(client, home, tmp_path / "out", format="peft")
    thread.join(30)
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_exported_is_told_before_anything_waits(
    client: Client, home: ExportHome, tmp_path: Path
) -> None:
    with pytest.raises(StartRefused, match="'peft', 'merged', 'gguf' or 'vllm'"):
        export(client, home, tmp_path / "out", format="onnx")
    (tmp_path / "out").mkdir()
    with pytest.raises(StartRefused, match="is there already"):
        export(client, home, tmp_path / "out", format="peft")
