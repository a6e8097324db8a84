import os
import subprocess
import sys
from pathlib import Path

from worker.__main__ import worker_environment

ROOT = Path(__file__).resolve().parents[2]


def start(environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "worker"], env=dict(os.environ) | environ, cwd=ROOT, capture_output=True, text=True
    )


def test_a_database_without_tables_stops_the_start_and_names_the_remedy(tmp_path: Path) -> None:
    ended = start({"LORAMILL_HOME": str(tmp_path)})

    assert ended.returncode == 1
    assert "loramill migrate" in ended.stderr


def test_a_misspelt_setting_stops_the_start(tmp_path: Path) -> None:
    ended = start({"LORAMILL_HOME": str(tmp_path), "LORAMILL_POLL_SEC": "1"})

    assert ended.returncode == 1
    assert "LORAMILL_POLL_S?" in ended.stderr


def test_sigterm_means_to_stop_at_the_next_checkpoint() -> None:
    assert worker_environment({"PATH": "/bin"}) == {"PATH": "/bin", "REMAP_SIGTERM": "SIGQUIT"}
