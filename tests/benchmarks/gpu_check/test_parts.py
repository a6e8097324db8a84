"""What one part loses is its own: the others' results are there, and its figures up to then."""

import os
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.parts import Part, PartResult, Setting, run_parts

PATIENT_S = 60.0  # for parts that end at once
ALL_S = 600.0


def part(work: str, *, limit_s: float = PATIENT_S, **more: Any) -> Part:
    return Part(work, f"claims that it can {work}", f"tests.benchmarks.gpu_check.fake_parts:{work}", limit_s, **more)


def run(folder: Path, *parts: Part, seconds: float = ALL_S) -> list[PartResult]:
    return list(run_parts(parts, Setting("cpu", True, folder), seconds, start_method="spawn"))


def test_a_part_that_raises_is_killed_or_exits_loses_nothing_of_the_others(tmp_path: Path) -> None:
    works = ("raise_error", "be_killed", "exit_early", "not_hold", "hold")
    results = {one.name: one for one in run(tmp_path, *map(part, works))}
    assert [one.verdict for one in results.values()] == ["failed"] * 4 + ["held"]
    assert results["hold"].figures == {"device": "cpu"}
    assert results["raise_error"].why == "KeyError: 'tensor'"
    assert results["be_killed"].why == "its process was ended by SIGKILL"
    assert results["exit_early"].why == "its process ended with 3"
    assert results["not_hold"].why == "0.5 is too much"
    assert [results[name].figures for name in ("raise_error", "be_killed")] == [{"so far": 1}] * 2


def test_a_failed_parts_log_is_kept_with_what_it_printed(tmp_path: Path) -> None:
    [failed] = run(tmp_path, part("raise_error"))
    assert "about to raise" in failed.log
    assert "Traceback" in failed.log


def test_a_part_that_hangs_ends_at_its_limit_with_all_that_it_started(tmp_path: Path) -> None:
    hung, after = run(tmp_path, part("hang", limit_s=4.0), part("hold"))
    assert (hung.verdict, hung.why, hung.figures) == ("failed", "not done after 4 s", {"so far": 1})
    assert after.verdict == "held"
    assert not is_running(int((tmp_path / "sleeper").read_text("utf-8")))


def test_a_limit_that_ends_before_the_process_has_begun_is_one_too(tmp_path: Path) -> None:
    hung, after = run(tmp_path, part("hang", limit_s=0.01), part("hold"))
    assert (hung.verdict, hung.figures, after.verdict) == ("failed", {}, "held")


def test_what_cannot_be_tried_here_is_skipped_and_says_why(tmp_path: Path) -> None:
    results = run(
        tmp_path,
        part("skip"),
        part("hold", needs_cuda=True),
        part("hold", needs=("json", "no_such_module")),
        part("hold", needs=("json",)),
    )
    assert [(one.verdict, one.why) for one in results] == [
        ("skipped", "this chip has none"),
        ("skipped", "needs CUDA"),
        ("skipped", "needs no_such_module, not installed here"),
        ("held", None),
    ]


def test_a_part_that_no_longer_fits_is_skipped_and_a_shorter_one_is_not(tmp_path: Path) -> None:
    results = run(tmp_path, part("hold", limit_s=500.0), part("hold", limit_s=2000.0), part("hold"), seconds=300.0)
    assert [(one.verdict, one.why) for one in results] == [("held", None), ("skipped", "no time left"), ("held", None)]


def test_a_part_that_the_end_of_all_time_cuts_has_not_failed(tmp_path: Path) -> None:
    [hung] = run(tmp_path, part("hang", limit_s=1.5), seconds=1.0)
    assert (hung.verdict, hung.why) == ("skipped", "no time left: cut after 1 s")


def test_a_figure_that_json_does_not_have_fails_its_part(tmp_path: Path) -> None:
    [failed] = run(tmp_path, part("note_tensor"))
    assert failed.why == "TypeError: Object of type set is not JSON serializable"


def is_running(pid: int) -> bool:
    """Tell whether a process is there; one that was killed may be there for a moment, until it is waited for."""
    for _ in range(20):
        try:
            state = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return False
        if state == "Z":
            return False
        time.sleep(0.05)
    return True


def test_a_running_process_is_seen() -> None:
    assert is_running(os.getpid())
