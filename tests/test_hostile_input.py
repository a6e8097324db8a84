"""Hostile uploads and prompt formats against a real API: each is refused, none costs it its life or its memory.

The client's timeout is a bound on liveness: generous, and nothing is claimed about the time below it.
"""

import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import psutil
import pytest

from core.base_models.registry import BaseModelEntry, Folder, Registry
from core.process.bound import bound
from tests.harness.hostile import BOMBS, COLUMNS, UPLOADS, File, Form, malformed_template
from tests.harness.migrated import write_migrated
from tests.harness.models.tiny_models import write_tiny_llama
from tests.harness.servers.stack import TINY, command_environ, eventually, free_port, tail

SEED = 20261124
TEMPLATES = 30
TIMEOUT_S = 60.0
MORE_BYTES = 200 * 2**20  # by which the API's memory may grow over all of them, at its peak
GOOD = b'{"question": "q", "references": [{"title": "t", "text": "x"}], "answer": "a"}\n' * 3

pytestmark = pytest.mark.timeout(900)


@dataclass(frozen=True)
class Api:
    """The API as a process of its own."""

    url: str
    process: psutil.Process

    def ask(self, path: str, body: bytes | None = None, content_type: str = "") -> tuple[int, Any]:
        """Give status and JSON of an answer; a GET without a body."""
        request = urllib.request.Request(self.url + path, body, {"Content-Type": content_type} if content_type else {})
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
                return response.status, json.loads(response.read() or b"null")
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, json.loads(refused.read())

    def post(self, path: str, body: Any) -> tuple[int, Any]:
        return self.ask(path, json.dumps(body).encode(), "application/json")

    def upload(self, name: str, content: bytes) -> tuple[int, Any]:
        head = f'--b0undary\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
        tail = '\r\n--b0undary\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n--b0undary--\r\n'
        body = head.encode() + content + tail.encode()
        return self.ask("/v1/files", body, "multipart/form-data; boundary=b0undary")

    def is_alive(self) -> bool:
        try:
            return self.ask("/livez")[0] == 200
        except urllib.error.URLError:
            return False

    def peak_bytes(self) -> int:
        """Give the most memory that the process has had so far, or where nobody counts that, what it has now."""
        status = Path(f"/proc/{self.process.pid}/status")
        lines = status.read_text().splitlines() if status.exists() else []
        peaks_kib = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
        return peaks_kib[0] * 1024 if peaks_kib else int(self.process.memory_info().rss)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    home = tmp_path_factory.mktemp("home")
    write_migrated(home / "loramill.db")
    source = write_tiny_llama(home / "base-models" / TINY)  # as if it were imported
    Registry.load(home / "base-models").add(BaseModelEntry(name=TINY, source=Folder(path=source), learning_rate=1e-2))
    port, log = free_port(), home / "api.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            bound([sys.executable, "-m", "app", "api"], signal.SIGTERM),
            env=command_environ(home, port),
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
    api = Api(f"http://127.0.0.1:{port}", psutil.Process(process.pid))
    try:
        eventually(api.is_alive, "the API", TIMEOUT_S)
        yield api
    except BaseException as failure:
        failure.add_note(tail(log))
        raise
    finally:
        process.terminate()
        process.wait(TIMEOUT_S)


@pytest.fixture(scope="module")
def columns_file(api: Api) -> str:
    """Id of a file of columns that every template is tried on."""
    status, file = api.upload("x.jsonl", GOOD)
    assert (status, file["status"], file["columns"]) == (200, "processed", list(COLUMNS))
    return str(file["id"])


@pytest.fixture(scope="module")
def warm_bytes(api: Api, columns_file: str) -> int:
    """Memory of an API that has answered one request of each kind."""
    assert api.post("/v1/fine_tuning/preview", preview_of("{{question}}", [1]))[0] == 200
    assert api.upload("x.csv", b"q,a\n1,2\n")[1]["status"] == "processed"
    return api.peak_bytes()


def preview_of(prompt: str, references: Any) -> dict[str, Any]:
    values = {"question": "q", "references": references, "answer": "a"}
    return {
        "model": TINY,
        "examples": [values],
        "prompt_format": {"prompt": "{{question}}" + prompt, "completion": "{{answer}}"},
    }


def assert_unharmed(api: Api, warm_bytes: int) -> None:
    assert api.is_alive()
    assert api.peak_bytes() - warm_bytes < MORE_BYTES


@pytest.mark.parametrize("kind", range(len(UPLOADS)), ids=lambda kind: UPLOADS[kind].__name__)
def test_a_hostile_upload_is_refused_or_kept_as_an_error(api: Api, warm_bytes: int, kind: int) -> None:
    made = UPLOADS[kind](Random(f"{SEED} {kind}"))
    if isinstance(made, Form):
        status, answer = api.ask("/v1/files", made.body, made.content_type)
    else:
        status, answer = api.upload(made.name, made.content)
    if status == 200:
        assert answer["status"] == "error" or (isinstance(made, File) and made.is_harmless)
        assert len(answer["status_details"] or "") < 20_000
        assert api.ask(f"/v1/files/{answer['id']}/report?model={TINY}")[0] < 500
    else:
        assert 400 <= status < 500
        assert answer["error"]["message"]
    assert_unharmed(api, warm_bytes)


@pytest.mark.parametrize("seed", range(TEMPLATES))
def test_a_hostile_template_is_refused_by_its_name(api: Api, warm_bytes: int, columns_file: str, seed: int) -> None:
    random = Random(f"{SEED} template {seed}")
    field, other = random.sample(("prompt", "completion"), 2)
    prompt_format = {field: malformed_template(random), other: "{{question}}"}
    body = {"model": TINY, "training_file": columns_file, "prompt_format": prompt_format}
    status, answer = api.post("/v1/fine_tuning/jobs", body)
    assert (status, answer["error"]["param"]) == (400, f"prompt_format.{field}")
    assert_unharmed(api, warm_bytes)


@pytest.mark.parametrize("index", range(len(BOMBS)))
def test_a_template_that_explodes_when_it_is_rendered_is_refused(api: Api, warm_bytes: int, index: int) -> None:
    status, answer = api.post("/v1/fine_tuning/preview", preview_of(*BOMBS[index]))
    assert (status, answer["error"]["param"]) == (400, "examples[0]")
    assert_unharmed(api, warm_bytes)


def test_no_job_came_of_it(api: Api) -> None:
    assert api.ask("/v1/fine_tuning/jobs")[1]["data"] == []
