import pytest

from benchmarks.serving import cold
from benchmarks.serving.over_http import load
from benchmarks.serving.over_http.client import Answered
from benchmarks.serving.over_http.requests import deal, jain, medians, percentile, summarise
from benchmarks.serving.over_http.throughput import BASE, MIXED, ratios, written_speed


def answered(
    client: int, began_s: float, *pieces_s: float, status: int = 200, retry_after: str | None = None
) -> Answered:
    ended_s = pieces_s[-1] if pieces_s else began_s
    return Answered(client, status, began_s, list(pieces_s), ended_s, len(pieces_s), retry_after)


def test_rates_are_of_the_time_from_the_first_request_to_the_last_answer() -> None:
    found = summarise([answered(0, 1.0, 1.5, 2.0), answered(1, 1.0, 2.0, 3.0), answered(1, 3.0, status=503)])
    assert (found["requests"], found["failed"]) == (3, 1)
    assert found["output_tokens_per_s"] == pytest.approx(4 / 2.0)
    assert found["first_token_p50_s"] == pytest.approx(0.5)
    assert found["latency_p99_s"] == pytest.approx(2.0)
    assert found["errors"]


@pytest.mark.parametrize(("share", "value"), [(0.5, 2), (0.99, 4), (0.25, 1), (0.26, 2)])
def test_a_percentile_is_the_least_value_that_so_many_do_not_exceed(share: float, value: int) -> None:
    assert percentile([4, 2, 1, 3], share) == value


def test_bodies_are_dealt_to_clients_in_turn() -> None:
    plan = deal("http://x", [{"n": n} for n in range(5)], 2)
    assert [[one.body["n"] for one in client] for client in plan.clients] == [[0, 2, 4], [1, 3]]


def test_medians_are_of_numbers_that_all_rounds_have() -> None:
    assert medians([{"a": 1, "b": 5, "c": "x"}, {"a": 3}, {"a": 2, "b": 1}]) == {"a": 2}


@pytest.mark.parametrize(("shares", "index"), [([3, 3, 3], 1.0), ([6, 0, 0], 1 / 3)])
def test_jain_is_1_where_all_have_the_same(shares: list[float], index: float) -> None:
    assert jain(shares) == pytest.approx(index)


def test_a_peers_ratio_is_ours_through_theirs_and_the_best_of_pefts_two_counts() -> None:
    speeds = {
        "ours": {BASE: 200.0, MIXED: 160.0},
        "PEFT, static batch": {MIXED: 40.0},
        "PEFT, lock": {MIXED: 10.0},
        "transformers serve": {BASE: 100.0},
    }
    found = {name: {load: {"output_tokens_per_s": v} for load, v in each.items()} for name, each in speeds.items()}
    assert ratios(found) == {"peft_mixed": 4.0, "vllm_mixed": None, "transformers_serve": 2.0, "vllm_base": None}


def test_a_cold_load_is_what_the_first_request_takes_longer_than_the_second() -> None:
    stream = answered(0, 0.0, *[0.1 * n for n in range(1, 20)], 2.25, *[2.25 + 0.1 * n for n in range(1, 30)])
    asks = [answered(1, 1.95, 2.2), answered(2, 3.0, 3.15)]
    found = cold.judge([stream, *asks], streams=1)
    assert found["cold_load_ms"] == pytest.approx(100)
    assert found["step_ms"] == pytest.approx(100)
    assert found["worst_gap_steps"] == pytest.approx(3.5)  # from 1.9 to 2.25 s
    assert found["worst_gap_steps_of_warm_requests"] == pytest.approx(1.0)


def test_a_cold_request_that_failed_gives_no_figure() -> None:
    found = cold.judge([answered(0, 0.0, 1.0, 2.0), answered(1, 0.5, status=503), answered(2, 1.0, 1.5)], streams=1)
    assert found["cold_load_ms"] is None
    assert found["failed"] == ["503"]


def test_a_stream_that_ended_too_early_tells_nothing_of_gaps() -> None:
    asks = [answered(1, 1.0, 1.2), answered(2, 2.0, 2.1)]
    found = cold.judge([answered(0, 0.0, 0.5, 0.6), *asks], streams=1)
    assert found["worst_gap_steps"] is None
    assert found["failed"] == ["a stream ended before the last adapter was asked for"]


def test_tokens_of_answers_that_were_cut_off_count_for_fairness() -> None:
    callers = ["heavy", "heavy", "light-0"]
    cut = answered(2, 0.0, 1.0, 2.0, status=0)
    found = load.share_out([answered(0, 0.0, 1.0), answered(1, 0.0, 1.0), cut], callers)
    assert (found["heavy_tokens"], found["light_tokens"], found["jain"], found["failed"]) == (2, [2], 1.0, 0)


def test_refusals_are_told_by_whether_they_say_when_to_come_again() -> None:
    refused = [answered(0, 0.0, status=429, retry_after="2"), answered(1, 0.0, status=503)]
    found = load.goodput([answered(2, 0.0, 1.0), *refused])
    assert (found["refused_with_retry_after"], found["refused_without"]) == (1, 1)
    assert found["goodput"]["failed"] == 0


def test_zipf_asks_for_the_first_model_most_and_for_many() -> None:
    drawn = load.zipf([f"m{n}" for n in range(100)], 1000, seed=0)
    assert drawn.count("m0") > drawn.count("m9") > 0
    assert len(set(drawn)) > 50


def test_of_nothing_there_is_no_fairness_and_no_speed() -> None:
    assert jain([0, 0]) is None
    assert jain([]) is None
    assert written_speed(summarise([answered(0, 0.0, status=503)])) == "–"
    assert written_speed(summarise([answered(0, 0.0, 1.0, 2.0)])) != "–"
