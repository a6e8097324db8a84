"""`python -m worker.celery` runs our application wherever it is started."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("foreign", ["worker", "core"])
def test_a_package_where_it_is_started_is_not_taken_for_ours(tmp_path: Path, foreign: str) -> None:
    (tmp_path / foreign).mkdir()
    (tmp_path / foreign / "__init__.py").write_text(f'raise SystemExit("another {foreign}")')
    done = subprocess.run(
        [sys.executable, "-m", "worker.celery", "--app=worker.celery.app", "report"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1", "LORAMILL_HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "worker.celery.tasks" in done.stdout
