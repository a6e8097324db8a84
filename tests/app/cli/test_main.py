"""The command line from outside: what it loads, its exit statuses, and its sentences."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SLOW_TO_LOAD = ("torch", "transformers", "fastapi", "httpx2", "sqlalchemy", "celery", "structlog")


def loramill(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LORAMILL_")}
    return subprocess.run(
        [sys.executable, "-m", "app", *arguments],
        env={**clean, "NO_COLOR": "1", **environ},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("arguments", [["--help"], ["up", "-h"], ["base-models", "--help"]])
def test_help_loads_nothing_slow(arguments: list[str]) -> None:
    program = (
        "import sys\n"
        "from app.cli.main import cli\n"
        f"sys.argv = ['loramill', *{arguments!r}]\n"
        "try:\n    cli()\n"
        f"finally:\n    print([name for name in {SLOW_TO_LOAD!r} if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert "Usage: loramill" in done.stdout
    assert done.stderr.strip() == "[]"


def test_an_unknown_command_is_misuse() -> None:
    assert loramill("fly").returncode == 2


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"LORAMILL_PROT": "1"}, "LORAMILL_PROT is not a setting; did you mean LORAMILL_PORT?"),
        ({"LORAMILL_PORT": "x"}, "LORAMILL_PORT is malformed: Input should be a valid integer"),
        ({"LORAMILL_ENGINE_URLS": "{"}, "LORAMILL_ENGINE_URLS is malformed: it must be JSON"),
        ({"LORAMILL_BASE_MODELS": ","}, "LORAMILL_BASE_MODELS is malformed: names no base model"),
    ],
)
def test_malformed_settings_are_one_sentence_and_status_2(environ: dict[str, str], sentence: str) -> None:
    done = loramill("settings", **environ)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"loramill: {sentence}")
    assert done.stderr.count("\n") == 1


def test_a_malformed_secret_is_not_repeated() -> None:
    done = loramill("settings", LORAMILL_API_KEY="too-short")
    assert done.returncode == 2
    assert "LORAMILL_API_KEY" in done.stderr
    assert "too-short" not in done.stderr


def test_settings_tell_value_and_origin_without_secrets() -> None:
    done = loramill(
        "settings",
        "--json",
        LORAMILL_PORT="9000",
        LORAMILL_API_KEY="a-key-of-sixteen-characters",
        LORAMILL_DATABASE_URL="postgresql+psycopg://me:hidden@db/loramill",
    )
    rows = {row["variable"]: row for row in json.loads(done.stdout)}
    assert rows["LORAMILL_PORT"] == {"variable": "LORAMILL_PORT", "value": 9000, "origin": "environment"}
    assert rows["LORAMILL_HOST"]["origin"] == "default"
    assert rows["LORAMILL_API_KEY"]["value"] == "********"
    assert rows["LORAMILL_DATABASE_URL"]["value"] == "postgresql+psycopg://me:********@db/loramill"
    assert "hidden" not in done.stdout


def test_an_engine_needs_one_address() -> None:
    for addresses in ([], ["--port", "9001", "--uds", "/tmp/engine.sock"]):
        done = loramill("engine", "--base-model", "tiny", *addresses)
        assert done.returncode == 2
        assert "either --port or --uds" in done.stderr


def test_up_refuses_other_machines_without_a_key(tmp_path: Path) -> None:
    done = loramill("up", LORAMILL_HOST="0.0.0.0", LORAMILL_HOME=str(tmp_path / "home"))
    assert done.returncode == 2
    assert "LORAMILL_API_KEY" in done.stderr
    assert not (tmp_path / "home").exists()


def test_up_refuses_a_broker_it_would_not_use(tmp_path: Path) -> None:
    done = loramill("up", LORAMILL_BROKER_URL="redis://elsewhere/0", LORAMILL_HOME=str(tmp_path / "home"))
    assert done.returncode == 2
    assert "LORAMILL_BROKER_URL is set" in done.stderr
