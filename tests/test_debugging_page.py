"""docs/debugging.md speaks of error codes, settings and files that there are."""

import re
from pathlib import Path

from core import errors
from core.settings import PREFIX, Settings
from worker.trainer_process import run_folder

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "debugging.md").read_text(encoding="utf-8")


def known_codes() -> set[str]:
    codes: set[str] = {"internal_error"}  # of what no class foresees
    classes = [errors.ServiceError]
    while classes:
        cls = classes.pop()
        codes.add(cls.code)
        classes.extend(cls.__subclasses__())
    return codes


def test_every_code_of_a_failed_job_is_one_that_can_occur() -> None:
    rows = re.findall(r"^\| (`[a-z_`, ]+`) \|", PAGE.split("## A job fails")[1].split("## ")[0], flags=re.MULTILINE)
    named = {code for row in rows for code in re.findall(r"`(\w+)`", row)}
    assert len(named) > 5
    assert named <= known_codes()


def test_every_setting_is_one_that_is_read() -> None:
    named = set(re.findall(rf"{PREFIX}([A-Z_]+)", PAGE))
    assert "LEASE_TTL_S" in named
    assert {name.lower() for name in named} <= set(Settings.model_fields)


def test_the_exit_statuses_are_the_trainers() -> None:
    for status in (run_folder.EXIT_FAILED, run_folder.EXIT_AGAIN, run_folder.EXIT_PEER_LOST):
        assert re.search(rf"\b{status} ", PAGE)


def test_the_files_of_an_attempt_are_those_that_are_written() -> None:
    for name in (run_folder.SPEC, run_folder.LOG, run_folder.CHECKPOINTS, run_folder.ADAPTER, run_folder.RESULTS):
        assert f"`{name}" in PAGE or f"`{name}/`" in PAGE
