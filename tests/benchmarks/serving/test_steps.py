"""The timing of steps, over a tiny model's real runner."""

from pathlib import Path

import pytest
import torch

from benchmarks.correctness.oracle import PeftOracle
from benchmarks.serving import decode
from benchmarks.serving.adapters import list_linears
from benchmarks.serving.decode import load_endless, make_adapters, taxes
from benchmarks.serving.roof import roofs, weight_bytes
from benchmarks.serving.steps import (
    StepTimings,
    agreement,
    generate,
    interleave,
    time_decode,
    time_generate,
    time_prefill,
)
from core.settings import Settings
from core.text.tokenizer import TextTokenizer
from tests.harness.models.served_models import serve_fp32
from tests.harness.models.tiny_models import write_tiny_phi
from worker.inference.lora.adapter import Adapter
from worker.inference.model.runner import ModelRunner
from worker.inference.model.runner_building import build_runner
from worker.models.serving import EngineModel

PROMPTS = [[1, 2, 3, 4], [5, 6, 7, 8]]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_phi(tmp_path_factory.mktemp("base-models") / "tiny-phi")


@pytest.fixture(scope="module")
def served(base: Path) -> EngineModel:
    return serve_fp32(base)


@pytest.fixture(scope="module")
def runner(base: Path) -> ModelRunner:
    settings = Settings(engine_kv_bytes=2**24, engine_native=False, engine_lora_columns=32)
    return build_runner(serve_fp32(base), settings)


@pytest.fixture(scope="module")
def adapters(base: Path, served: EngineModel) -> list[Adapter]:
    return make_adapters(base, served, 8, 2)


def test_timed_steps_leave_no_slot_and_no_adapter_behind(runner: ModelRunner, adapters: list[Adapter]) -> None:
    assert time_decode(runner, PROMPTS, adapters, 3) > 0
    assert time_prefill(runner, PROMPTS[0], adapters[0]) > 0
    assert (runner.kv.used_slots, runner.bank.placed) == (0, ())


def test_adapters_beyond_the_bank_are_refused(runner: ModelRunner, base: Path, served: EngineModel) -> None:
    with pytest.raises(RuntimeError, match="no room for 3 adapters of rank 16"):
        time_decode(runner, [*PROMPTS, [1]], make_adapters(base, served, 16, 3), 1)


def test_a_runner_agrees_with_the_greedy_answers_of_its_own_weights(runner: ModelRunner, base: Path) -> None:
    expected = PeftOracle(base, {}, vocabulary=TextTokenizer.from_folder(base).vocab_size).answers([None], PROMPTS, 6)
    answers = [list(expected[None, number].ids) for number in range(len(PROMPTS))]
    assert agreement(runner, PROMPTS, answers) == 1.0
    assert agreement(runner, PROMPTS, [[token ^ 1 for token in answer] for answer in answers]) < 0.5


def test_generate_is_timed_and_answers_in_full(base: Path) -> None:
    model = load_endless(base, torch.float32)
    assert time_generate(model, PROMPTS, 3) > 0
    assert [len(answer) for answer in generate(model, PROMPTS, 6)] == [6, 6]


def test_measurements_are_taken_in_turn_and_the_first_round_only_warms_up() -> None:
    taken: list[str] = []

    def take(name: str) -> float:
        taken.append(name)
        return float(len(taken))

    measured = interleave({"a": lambda: take("a"), "b": lambda: take("b")}, 2)
    assert taken == ["a", "b"] * 3
    assert (measured["a"].seconds, measured["b"].seconds) == ([3.0, 5.0], [4.0, 6.0])


def test_after_each_round_that_counts_what_was_measured_so_far_is_told() -> None:
    told: list[list[float]] = []
    interleave({"a": lambda: 1.0}, 2, lambda measured: told.append([*measured["a"].seconds]))
    assert told == [[1.0], [1.0, 1.0]]


def test_the_tax_is_of_the_variant_that_is_fastest_with_adapters() -> None:
    times = {"plain base 8": 10, "plain r8 8": 14, "plain r16 8": 15, "plain prefill base": 10, "plain prefill r16": 11}
    times |= {"native base 8": 8, "native r8 8": 10, "native r16 8": 16, "native prefill base": 8}
    found = taxes(
        {name: StepTimings([float(s)]) for name, s in times.items() | {("native prefill r16", 12)}}, ("plain", "native")
    )
    assert found["r8"] == pytest.approx(0.25)
    assert found["r16"] == pytest.approx(0.5)
    assert found["prefill_r16"] == pytest.approx(0.1)
    assert found["r8_of"]["plain"] == pytest.approx(0.4)


def test_the_roofs_share_is_of_the_fastest_variant_and_the_worst_is_the_least() -> None:
    times = {"plain base 1": [20.0], "native base 1": [10.0], "plain base 8": [20.0], "native base 8": [25.0]}
    steps = {name: StepTimings([ms / 1e3 for ms in each]).as_dict() for name, each in times.items()}
    found = roofs(steps, ("plain", "native"), {1: 200_000_000, 8: 300_000_000}, [40.0])
    assert found["1"] == pytest.approx(0.5)
    assert found["8"] == found["worst"] == pytest.approx(0.375)


def test_a_repeats_steps_are_held_against_the_memory_of_that_repeat() -> None:
    steps = {"plain base 1": StepTimings([0.010, 0.020, 0.040]).as_dict()}
    found = roofs(steps, ("plain",), {1: 200_000_000}, [40.0, 20.0, 10.0])
    assert found["1"] == pytest.approx(0.5)


def test_an_untied_embedding_is_not_read_in_a_step(base: Path) -> None:
    blocks = sum(2 * linear.in_features * linear.out_features for linear in list_linears(base).values())
    head = 2 * 80 * 320
    assert blocks + head < weight_bytes(base) < blocks + head + 2 * 80 * 320


def test_weights_in_8_bits_that_the_engine_refuses_here_are_left_out_with_its_reason(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "VARIANTS", {"plain": False})
    runners, absent = decode.build_all(base, "float32")
    assert set(runners) == {"plain model"}
    assert set(absent) == {"plain int8"}
    assert "LORAMILL_ENGINE_WEIGHTS" in absent["plain int8"]


def test_the_best_ratio_is_of_the_variants_that_there_are() -> None:
    ratios = {("plain model", 1): 2.0, ("plain model", 8): 3.0, ("with_compiler model", 1): 4.0}
    ratios |= {("with_compiler model", 8): 2.5, ("with_compiler int8", 1): 6.0, ("with_compiler int8", 8): 5.0}
    found = decode.best_ratios(ratios, "model", "generate")
    assert found["generate"] == {"1": 4.0, "8": 3.0}
    assert decode.best_ratios(ratios, "int8", "generate_int8")["generate_int8"] == {"1": 6.0, "8": 5.0}
    assert decode.best_ratios({}, "int8", "generate_int8") == {"generate_int8": {}, "generate_int8_of": {}}
