"""What TRL's SFTTrainer trains on, example by example: the same tokens, but where it says or hides that it errs."""

import logging
from collections import Counter
from pathlib import Path

import pytest

# An old name of transformers' that TRL still sets, in the first argument class made
pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning:transformers")
pytest.importorskip("trl", reason="TRL, the peer that labels are compared with, is not installed")

from datasets import disable_progress_bars  # noqa: E402
from trl.trainer import sft_trainer  # noqa: E402

from benchmarks.labels_against_trl import (  # noqa: E402
    SHORT,
    VARIANTS,
    Comparison,
    Pair,
    compare,
    count_labels,
    read_pairs,
    trl_prepares,
)

EXAMPLES = Path(__file__).resolve().parents[3] / "examples" / "train.jsonl"
COUNT = 200


@pytest.fixture(params=["phi2_folder", pytest.param("smollm2_folder", marks=pytest.mark.slow)])
def folder(request: pytest.FixtureRequest) -> Path:
    disable_progress_bars()
    found: Path = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def pairs(e2e_folder: Path) -> list[Pair]:
    found = read_pairs(e2e_folder / "train.jsonl", COUNT)
    assert len(found) == COUNT
    return found


def _compare(folder: Path, pairs: list[Pair], variant: str) -> Comparison:
    [chosen] = [one for one in VARIANTS if one.name == variant]
    return compare(folder, pairs, chosen)


@pytest.mark.parametrize("variant", ["completion brings the space", "prompt ends in a newline"])
def test_where_trl_does_not_warn_ids_and_labels_are_equal(folder: Path, pairs: list[Pair], variant: str) -> None:
    result = _compare(folder, pairs, variant)
    assert (result.equal, result.warned, result.why) == (COUNT, 0, Counter())
    assert result.our_tokens == result.their_tokens > 10 * COUNT


def test_our_own_example_data_has_equal_labels_too(smollm2_folder: Path) -> None:
    result = _compare(smollm2_folder, read_pairs(EXAMPLES, COUNT), "completion brings the space")
    assert (result.equal, result.warned) == (COUNT, 0)


def test_trl_merges_a_space_at_a_prompts_end_into_what_it_trains(folder: Path, pairs: list[Pair]) -> None:
    result = _compare(folder, pairs, "prompt ends in a space")
    assert (result.equal, result.warned) == (0, COUNT)
    assert result.why == {"TRL trains a token that holds the end of the prompt": COUNT}


def test_moved_by_a_prompt_format_the_space_is_trained_as_trl_does_and_served_so_too(
    folder: Path, pairs: list[Pair]
) -> None:
    result = _compare(folder, pairs, "prompt format ends in a space")
    assert (result.equal, result.warned) == (COUNT, COUNT)


def test_trl_cuts_the_end_of_answers_that_are_too_long(folder: Path, pairs: list[Pair]) -> None:
    result = _compare(folder, pairs, f"max_length {SHORT}")
    assert set(result.why) == {"we drop it, TRL cuts the answer and its end"}
    assert 0 < result.equal < COUNT


def test_trl_says_so_when_we_say_that_it_warns(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    for prompt, completion, is_warned in (("A:", " b", False), ("A: ", "b", True)):
        type(sft_trainer.logger).warning_once.cache_clear()
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            trl_prepares(folder, [Pair(prompt, completion)])
        assert ("not a prefix" in caplog.text) == is_warned


def test_labels_that_copy_the_padded_inputs_train_mostly_padding(folder: Path, pairs: list[Pair]) -> None:
    ours, full, copied, masked = count_labels(folder, pairs)
    assert copied.total == COUNT * 2048
    assert copied.padding > 0.9 * copied.total
    assert (ours.completion, ours.closing, ours.prompt, ours.padding) == (copied.completion, COUNT, 0, 0)
    assert full.prompt == copied.prompt - COUNT  # nothing predicts a text's first token
    assert masked.closing == 0  # masking by the pad token's id takes the closing token with it
    assert masked.prompt == copied.prompt
