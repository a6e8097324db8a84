"""How two manifests are said to differ, and what is said of a rerun."""

from typing import Any

import pytest

from core.provenance.comparison import Difference, compare, judge_rerun, sentence_of
from core.provenance.record import Stint
from tests.core.provenance.manifests import FILE, manifest
from tests.harness.fake_trainer import MEASURED


def test_equal_jobs_on_two_hosts_differ_in_the_host_alone() -> None:
    found = compare(manifest("ftjob-1"), manifest("ftjob-2"))
    assert found.environment == (Difference(name="host", this="ftjob-1", other="ftjob-2"),)
    assert (found.settings, found.data, found.base_model, found.results) == ((), (), (), ())


def test_each_difference_stands_where_it_belongs() -> None:
    this = manifest(lora={"rank": 8}, rendered="s" * 64, environment={"torch": "2.0", "cpu_level": "avx2"}, loss=0.25)
    other = manifest(environment={"torch": "2.1"}, file=FILE.model_copy(update={"sha256": "2" * 64}))
    found = compare(this, other)
    assert found.settings == (
        Difference(name="lora.rank", this=8, other=16),
        Difference(name="lora.alpha", this=16.0, other=32.0),
    )
    assert [one.name for one in found.data] == [
        "training_file.sha256",
        "rendered.sha256",
        "rendered_held_out.sha256",
    ]
    assert found.environment == (
        Difference(name="torch", this="2.0", other="2.1"),
        Difference(name="cpu_level", this="avx2", other=None),
    )
    assert found.results == (Difference(name="metrics.l", this=0.25, other=0.5),)


def test_of_several_stints_each_version_is_told() -> None:
    stints = tuple(Stint(from_step=n, host="h", system="s", environment={"torch": f"2.{n}"}) for n in (0, 5))
    found = compare(manifest("h", stints=stints), manifest("h"))
    assert Difference(name="torch", this=["2.0", "2.5"], other="2.0") in found.environment


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"environment": {"torch": "2.1"}}, "torch was 2.0, is 2.1"),
        ({"measured": MEASURED.model_copy(update={"token_budget": 32})}, "token_budget was 64, is 32"),
        ({"rendered": "s" * 64}, f"rendered.sha256 was {'r' * 64}, is {'s' * 64}"),
    ],
)
def test_what_may_be_why_bits_differ_is_named(changed: dict[str, Any], reason: str) -> None:
    verdict = judge_rerun(manifest("ftjob-2", weights="v" * 64, **changed), manifest(), "w" * 64)
    assert verdict.same_weights is False
    assert reason in sentence_of(verdict, "ftjob-1")


def test_another_host_and_other_times_are_no_reasons() -> None:
    slower = MEASURED.model_copy(update={"peak_memory_bytes": 9})
    verdict = judge_rerun(manifest("ftjob-2", weights="v" * 64, measured=slower), manifest(), "w" * 64)
    assert verdict.may_be_why == ()
    assert sentence_of(verdict, "ftjob-1").endswith("and nothing that was recorded differs")


def test_what_was_not_recorded_is_no_reason_and_is_said_to_be_missing() -> None:
    old = manifest(stints=())
    verdict = judge_rerun(manifest("ftjob-2", weights="v" * 64), old, "w" * 64)
    assert (verdict.may_be_why, verdict.unrecorded) == ((), True)
    assert "was not recorded" in sentence_of(verdict, "ftjob-1")


def test_whether_bits_are_the_same_goes_by_the_weights_that_are_given() -> None:
    assert judge_rerun(manifest(), manifest(weights=None), "w" * 64).same_weights is True
    assert judge_rerun(manifest(), manifest(weights=None), None).same_weights is None
