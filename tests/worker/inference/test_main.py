"""The engine as a process: it listens, answers, drains on SIGTERM, and reports its own death."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from core.base_models.registry import BaseModelEntry, Folder, Registry
from core.serving.generation import Delta
from core.settings import Settings
from tests.conftest import ROOT
from tests.harness.models.kernels import share_kernels
from tests.harness.models.tiny_models import write_tiny_phi
from tests.worker.inference.engine_harness import PeftReference, gather, make_request
from worker.models.serving import open_engine_model

# The real process, except for what every step does once it answers.
BROKEN = """
import sys, time
from worker.inference import __main__ as process
from worker.inference.engine import LocalEngine

start = LocalEngine.start

def fail(_rows):
    raise RuntimeError("injected")

def hang(_rows):
    time.sleep(3600)

def break_and_start(engine):
    engine._runner.forward = {step}
    start(engine)

LocalEngine.start = break_and_start
sys.exit(process.main())
"""


# The real process, except that it ends once it is ready, and writes down what it has imported by then.
LISTING = """
import os, sys
from pathlib import Path
from worker.inference import __main__ as process
from worker.inference.engine import LocalEngine

def list_and_end(engine):
    Path(os.environ["LORAMILL_HOME"], "imported").write_text(" ".join(name for name in sys.modules if "." not in name))
    os._exit(0)

LocalEngine.start = list_and_end
sys.exit(process.main())
"""

# What takes seconds to import, or only comes along with it.
HEAVY = {"transformers", "huggingface_hub", "peft", "accelerate", "datasets", "pandas", "scipy", "sklearn", "sympy"}


# The real process, except that its base model is never open.
HANGING = """
import sys, time
from worker.inference import __main__ as process
from worker.models import serving

serving.open_engine_model = lambda *_, **__: time.sleep(3600)
sys.exit(process.main())
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder with the tiny Phi as an imported base model."""
    home = tmp_path_factory.mktemp("home")
    folder = write_tiny_phi(home / "base-models" / "tiny-phi")
    entry = BaseModelEntry(name="tiny-phi", source=Folder(path=folder), dtype="float32")
    open_engine_model(folder, Settings(home=home).references_folder)  # as its import would have asked transformers
    Registry.load(home / "base-models").add(entry)
    return home


@contextmanager
def process(
    home: Path, *command: str, waits_until_ready: bool = True, **settings: str
) -> Iterator[tuple[subprocess.Popen[bytes], httpx2.Client]]:
    """Start an engine process on a Unix socket and wait until it is ready, or only until it listens."""
    share_kernels(home)
    with tempfile.TemporaryDirectory() as folder:  # a socket's path must be short
        uds = f"{folder}/engine.sock"
        environment = {**os.environ, "LORAMILL_HOME": str(home), "OMP_NUM_THREADS": "1", **settings}
        arguments = [sys.executable, *command, "--base-model", "tiny-phi", "--uds", uds]
        child = subprocess.Popen(arguments, cwd=ROOT, env=environment)
        try:
            with httpx2.Client(transport=httpx2.HTTPTransport(uds=uds), base_url="http://engine", timeout=60) as client:
                while not Path(uds).exists():
                    assert child.poll() is None, "the engine ended before it listened"
                    time.sleep(0.05)
                while waits_until_ready and client.get("/readyz").status_code != 200:
                    assert child.poll() is None, "the engine ended before it was ready"
                    time.sleep(0.05)
                yield child, client
        finally:
            child.kill()
            child.wait()


def test_it_answers_tells_so_and_ends_a_running_request_before_sigterm_ends_it(home: Path) -> None:
    with process(home, "-m", "worker.inference") as (child, client):
        client.post("/generate", json=make_request("xyz", max_tokens=4).model_dump(mode="json"))
        lines = client.get("/metrics").text.splitlines()
        body = make_request("x", max_tokens=40).model_dump(mode="json")
        with client.stream("POST", "/generate", json=body) as response:
            deltas = response.iter_lines()
            first = next(deltas)
            child.send_signal(signal.SIGTERM)
            answer = gather([Delta.model_validate_json(line) for line in (first, *deltas)])
        assert child.wait(timeout=60) == 0
    assert answer.ids == PeftReference(home / "base-models" / "tiny-phi").greedy(None, b"x", 40)
    told = ('finished_requests_total{reason="length"} 1.0', "prefill_tokens_total 3.0", "waiting_requests 0.0")
    assert set(lines) >= {f"loramill_engine_{line}" for line in told}


def test_it_exits_with_an_error_when_its_steps_keep_failing(home: Path) -> None:
    with process(home, "-c", BROKEN.format(step="fail")) as (child, client):
        for _ in range(3):
            assert client.post("/generate", json=make_request("x").model_dump(mode="json")).status_code == 503
        assert child.wait(timeout=60) == 1


def test_it_exits_with_an_error_when_a_step_hangs(home: Path) -> None:
    hanging = process(home, "-c", BROKEN.format(step="hang"), LORAMILL_ENGINE_STALL_S="0.5")
    with hanging as (child, client):
        assert client.get("/readyz").status_code == 200
        with pytest.raises(httpx2.TransportError):
            client.post("/generate", json=make_request("x").model_dump(mode="json"))
        assert child.wait(timeout=60) == 1


def test_a_start_that_hangs_says_in_what_and_ends_by_a_signal(home: Path) -> None:
    with process(home, "-c", HANGING, waits_until_ready=False) as (child, client):
        while "opening the base model" not in (phase := client.get("/readyz").json().get("phase", "")):
            assert child.poll() is None, phase
            time.sleep(0.05)
        response = client.get("/info")
        assert (response.status_code, response.json()["code"]) == (503, "engine_starting")
        child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=60) == 0


def test_a_start_that_hangs_ends_at_its_limit(home: Path) -> None:
    with process(home, "-c", HANGING, waits_until_ready=False, LORAMILL_ENGINE_START_S="2") as (child, _):
        assert child.wait(timeout=60) == 1


def test_an_engine_of_our_own_blocks_is_ready_without_transformers(home: Path) -> None:
    with process(home, "-c", LISTING, waits_until_ready=False) as (child, _):
        assert child.wait(timeout=120) == 0
    imported = set((home / "imported").read_text().split())
    assert "torch" in imported
    assert imported & HEAVY == set()


def test_a_base_model_that_is_not_imported_is_named(tmp_path: Path) -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "worker.inference", "--base-model", "phi-2", "--port", "1"],
        cwd=ROOT,
        env={**os.environ, "LORAMILL_HOME": str(tmp_path)},
        capture_output=True,
        check=False,
    )
    assert finished.returncode == 1
    assert b"loramill base-models import phi-2" in finished.stderr
    assert b"Traceback" not in finished.stderr
    assert b"importing libraries" not in finished.stderr  # said at once
