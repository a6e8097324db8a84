"""The home folder and all in it belong to their owner alone, whatever the umask was."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from core.errors import SettingsInvalid
from core.process.privacy import keep_home_to_owner
from core.settings import Settings
from tests.conftest import ROOT

# A worker's process, from its start to the end of a job with a checkpoint and an adapter.
JOB = """
import os, sys
from pathlib import Path
from core.process.privacy import keep_home_to_owner
from core.settings import Settings
os.umask(int(sys.argv[2], 8))
settings = Settings(home=Path(sys.argv[1]), heartbeat_s=0.2)
keep_home_to_owner(settings)
from tests.worker.conftest import Home
from tests.worker.jobs.running import run
Path.mkdir, made = lambda self, *rest, **named: made(self, *rest, **(named | {"exist_ok": True})), Path.mkdir
home = Home(settings)
job_id = home.queue(steps=4, checkpoint_every=2)
run(home)
assert home.job(job_id).status == "succeeded", home.job(job_id).error
"""


@pytest.fixture
def umask() -> object:
    before = os.umask(0o022)
    yield None
    os.umask(before)


@pytest.mark.parametrize("before", ["000", "022"])
def test_all_that_a_job_leaves_is_its_owners(tmp_path: Path, before: str) -> None:
    home = tmp_path / "home"
    subprocess.run([sys.executable, "-c", JOB, str(home), before], cwd=ROOT, check=True)
    modes = {path: stat.S_IMODE(path.lstat().st_mode) for path in (home, *home.rglob("*"))}
    assert {"loramill.db", "trainer.log", "spec.json"} <= {path.name for path in modes}
    assert {path: oct(mode) for path, mode in modes.items() if mode & 0o077} == {}


def test_a_wider_home_is_narrowed_and_that_is_said(
    tmp_path: Path, umask: object, caplog: pytest.LogCaptureFixture
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o755)
    for _ in range(2):
        keep_home_to_owner(Settings(home=home))
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    [said] = caplog.messages
    assert said.endswith("could be opened by others (mode 755): it is its owner's alone now (700)")


def test_a_folder_that_all_share_is_no_home(tmp_path: Path, umask: object) -> None:
    tmp_path.chmod(0o1777)
    with pytest.raises(SettingsInvalid, match="LORAMILL_HOME"):
        keep_home_to_owner(Settings(home=tmp_path))
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o1777
