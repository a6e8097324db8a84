from dataclasses import fields, replace

import pytest

from benchmarks.training.measurement import Measurement, MeasurementRequest, StepClock
from benchmarks.training.summary import ablations, ratios, summarise, summarise_ablations
from worker.training.model.ablations import SHOWS_WITHOUT, Techniques


def measured(trainer: str, *step_s: float, tokens: int = 1000, roofline_s: float | None = None) -> Measurement:
    return Measurement(
        trainer=trainer,
        dtype="float32",
        without=(),
        examples=8,
        useful_tokens=tokens,
        trained_tokens=tokens // 2,
        step_s=step_s,
        startup_s=5.0,
        peak_memory_bytes=1000,
        load=0.1,
        roofline_s=roofline_s,
    )


ROUNDS = [
    [measured("ours", 1.0, 1.0, roofline_s=1.6), measured("hf_best", 4.0), measured("seed", 80.0, tokens=100)],
    [measured("ours", 1.0, 9.0, roofline_s=1.0), measured("hf_best", 4.0), measured("seed", 80.0, tokens=100)],
    [measured("ours", 0.5, 1.5, roofline_s=1.6), measured("hf_best", 5.0)],
]


def test_a_noisy_round_does_not_move_the_medians() -> None:
    summaries = summarise(one for several in ROUNDS for one in several)
    ours = summaries["ours in float32"]
    assert (ours.rounds, ours.useful_tokens_per_s, ours.trained_tokens_per_s) == (3, 500.0, 250.0)
    assert (ours.step_s, ours.fastest_step_s) == (1.0, 0.5)
    assert ours.roofline_share == 0.8
    assert summaries["seed in float32"].rounds == 2


def test_ratios_are_useful_tokens_a_second_over_the_rivals() -> None:
    # 500 against 250, and against 100 / 80
    assert ratios(summarise(one for several in ROUNDS for one in several)) == {
        "hf_best": 2.0,
        "seed": 400.0,
        "roofline": 0.8,
    }


def test_a_rival_is_compared_with_in_the_type_in_which_it_was_fastest() -> None:
    faster = replace(measured("hf_best", 2.0), dtype="bfloat16")
    summaries = summarise([measured("ours", 1.0), measured("hf_best", 4.0), faster])
    assert {name for name in summaries if name.startswith("hf_best")} == {"hf_best in float32", "hf_best in bfloat16"}
    assert ratios(summaries) == {"hf_best": 2.0}


def test_the_held_out_loss_is_that_of_the_round_that_was_scored() -> None:
    scored = replace(measured("ours", 1.0), held_out_loss=2.5)
    assert summarise([measured("ours", 1.0), scored])["ours in float32"].held_out_loss == 2.5


def test_each_technique_is_switched_off_alone_or_beside_the_one_that_hides_it() -> None:
    offs = ablations()
    assert offs[0] == ()
    assert len(offs) == len(set(offs))
    for technique in fields(Techniques):
        hiding = (SHOWS_WITHOUT[technique.name],) if technique.name in SHOWS_WITHOUT else ()
        assert hiding in offs
        assert (*hiding, technique.name) in offs


def test_a_technique_is_compared_with_what_it_shows_in() -> None:
    by_off = {off: replace(measured("ours", 1.0), without=off) for off in ablations()}
    hidden, hiding = next(iter(SHOWS_WITHOUT.items()))
    by_off[(hiding,)] = replace(by_off[(hiding,)], step_s=(2.0,))
    by_off[(hiding, hidden)] = replace(by_off[(hiding, hidden)], step_s=(3.0,), peak_memory_bytes=1500)
    table = {one.technique: one for one in summarise_ablations(by_off.values())}
    assert set(table) == {technique.name for technique in fields(Techniques)}
    assert (table[hiding].slowdown, table[hiding].baseline) == (2.0, ())
    assert (table[hidden].slowdown, table[hidden].memory_growth_bytes) == (1.5, 500)


def test_requests_and_answers_pass_between_processes_unchanged() -> None:
    request = MeasurementRequest("ours", "base", "rows", ("fc1",), 8, 8, 1e-3, 0, without=("packing",))
    assert MeasurementRequest.from_json(request.to_json()) == request
    found = measured("ours", 1.0, 2.0, roofline_s=1.0)
    assert Measurement.from_json(found.to_json()) == found


def test_the_clock_counts_from_one_steps_end_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([10.0, 11.0, 14.0])
    monkeypatch.setattr("benchmarks.training.measurement.time.perf_counter", lambda: next(now))
    monkeypatch.setattr("benchmarks.training.measurement.time.time", lambda: 107.0)
    clock = StepClock(100.0, lambda: None)
    clock.begin_step()
    clock.end_step()
    clock.begin_step()
    clock.end_step()
    assert clock.step_s == [1.0, 3.0]
    assert clock.startup_s == 7.0
