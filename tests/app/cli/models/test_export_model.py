"""`loramill export-model` against an API on a socket, over connections that break."""

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.cli.client import Client, model_download
from app.cli.models.export_model import fetch_model
from app.cli.models.receiving import TRIES
from core.errors import StartRefused
from core.serving.adapter_format import MANIFEST, WEIGHTS
from tests.app.cli.command import loramill
from tests.app.conftest import BASE, ApiHarness, serving
from tests.app.models.downloads.published import files_of, publish_adapter


class BreakingOff:
    """Lets the first answers break off, each behind so many bytes, and notes which bytes are asked for."""

    def __init__(self, app: ASGIApp, *, answers: int, bytes_each: int) -> None:
        self._app = app
        self._left = answers
        self._bytes_each = bytes_each
        self.asked: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self.asked.append(dict(scope["headers"]).get(b"range", b"all").decode())
        self._left -= 1
        breaks = self._left >= 0
        passed = 0

        async def send_some(message: Message) -> None:
            nonlocal passed
            if breaks and message["type"] == "http.response.body":
                body = message["body"][: self._bytes_each - passed]
                passed += len(body)
                message = {**message, "body": body, "more_body": True}
            # of an answer that is never complete, the server closes the connection
            await send(message)

        await self._app(scope, receive, send_some)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "adapter"


@pytest.fixture
def name(harness: ApiHarness, folder: Path) -> str:
    return publish_adapter(harness, folder)


@contextmanager
def client_of(app: ASGIApp) -> Iterator[Client]:
    with serving(app) as url, Client(url, None) as client:
        yield client


def export(client: Client, name: str, target: Path) -> None:
    fetch_model(client, name, target, wait=lambda _: None)


def test_a_model_becomes_a_folder(harness: ApiHarness, name: str, folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / "mine"
    with serving(harness.app()) as url:
        done = loramill(harness.settings.home, "export-model", name, target, "--url", url)
    assert (done.returncode, done.stderr) == (0, "")
    assert files_of(target) == files_of(folder)
    assert [path.name for path in target.parent.iterdir()] == ["mine"]
    assert "An adapter (LoRA, rank" in (target / "README.md").read_text()


def test_a_model_becomes_a_tar(harness: ApiHarness, name: str, folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / "mine.tar"
    with client_of(harness.app()) as client:
        export(client, name, target)
    with tarfile.open(target) as tar:
        assert tar.extractfile(MANIFEST).read() == (folder / MANIFEST).read_bytes()  # type: ignore[union-attr]
    assert [path.name for path in target.parent.iterdir()] == ["mine.tar"]


def test_a_broken_download_goes_on_where_it_broke_off(
    harness: ApiHarness, name: str, folder: Path, tmp_path: Path
) -> None:
    app = BreakingOff(harness.app(), answers=TRIES + 2, bytes_each=300)
    with client_of(app) as client:
        export(client, name, tmp_path / "mine")
    assert files_of(tmp_path / "mine") == files_of(folder)
    assert app.asked[:3] == ["all", "bytes=300-", "bytes=600-"]


def test_the_command_goes_on_with_what_an_earlier_one_left(
    harness: ApiHarness, name: str, folder: Path, tmp_path: Path
) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    app = BreakingOff(harness.app(), answers=1, bytes_each=700)
    with client_of(app) as client:
        with pytest.raises(KeyboardInterrupt):
            fetch_model(client, name, tmp_path / "mine", wait=interrupt)
        export(client, name, tmp_path / "mine")
    assert app.asked == ["all", "bytes=700-"]
    assert files_of(tmp_path / "mine") == files_of(folder)


def test_what_an_earlier_command_left_of_another_model_is_dropped(
    harness: ApiHarness, name: str, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / f".mine.{'a' * 64}.part").write_bytes(b"of something else")
    with client_of(harness.app()) as client:
        export(client, name, tmp_path / "mine")
    assert files_of(tmp_path / "mine") == files_of(folder)
    assert list(tmp_path.glob(".mine*")) == []


def test_what_arrived_whole_is_not_fetched_twice(harness: ApiHarness, name: str, folder: Path, tmp_path: Path) -> None:
    app = BreakingOff(harness.app(), answers=0, bytes_each=0)
    with client_of(app) as client:
        with client.downloading(model_download(name), None, 0) as response:
            whole, etag = response.read(), response.headers["etag"].strip('"')
        (tmp_path / f".mine.{etag}.part").write_bytes(whole)
        export(client, name, tmp_path / "mine")
    assert app.asked == ["all", f"bytes={len(whole)}-"]
    assert files_of(tmp_path / "mine") == files_of(folder)


def test_bytes_that_were_damaged_on_the_way_are_refused_and_not_kept(
    harness: ApiHarness, name: str, tmp_path: Path
) -> None:
    with client_of(harness.app()) as client:
        with client.downloading(model_download(name), None, 0) as response:
            whole, etag = response.read(), response.headers["etag"].strip('"')
        begun = whole.replace(b"the end", b"the end".upper())
        (tmp_path / f".mine.{etag}.part").write_bytes(begun)
        with pytest.raises(StartRefused, match=f"damaged: {WEIGHTS}"):
            export(client, name, tmp_path / "mine")
    assert [path.name for path in tmp_path.iterdir() if "mine" in path.name] == []


def test_an_api_that_is_away_is_given_up_after_a_few_tries(name: str, tmp_path: Path) -> None:
    waits: list[float] = []
    with Client("http://127.0.0.1:9", None) as client, pytest.raises(StartRefused, match="goes on from there"):
        fetch_model(client, name, tmp_path / "mine", wait=waits.append)
    assert len(waits) == TRIES - 1


def test_a_refusal_is_the_apis_own_and_a_target_that_is_there_stays(
    harness: ApiHarness, name: str, tmp_path: Path
) -> None:
    with client_of(harness.app()) as client:
        with pytest.raises(StartRefused, match="tiny is a base model; only fine-tuned models can be downloaded"):
            export(client, BASE, tmp_path / "mine")
        (tmp_path / "there.tar").write_bytes(b"mine")
        with pytest.raises(StartRefused, match="is there already"):
            export(client, name, tmp_path / "there.tar")
    assert (tmp_path / "there.tar").read_bytes() == b"mine"
