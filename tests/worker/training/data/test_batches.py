from pathlib import Path

import torch

from tests.harness.models.byte_tokenizer import END_OF_TEXT
from tests.worker.training.run_folders import render
from worker.training.data.batches import PADDING_ID, MicroBatch, Owned, collate, join

CPU = torch.device("cpu")
LINES = [{"prompt": "ab", "completion": "c"}, {"prompt": "d", "completion": "efg"}]


def _batch(tmp_path: Path, base: Path, *, weight: float = 0.0, completion_only: bool = False) -> MicroBatch:
    training = render(tmp_path, base, LINES, validation=[], prompt_loss_weight=weight).training
    return collate([training[0], training[1]], CPU, completion_only=completion_only)


def test_each_scored_position_stands_before_its_target(tmp_path: Path, tiny_phi: Path) -> None:
    batch = _batch(tmp_path, tiny_phi)
    assert batch.input_ids_N.tolist() == [*b"abc", *b"defg", *[PADDING_ID] * 9]
    assert batch.positions_K.tolist() == [1, 2, 3, 4, 5, 6]
    assert batch.targets_K.tolist() == [*b"c", END_OF_TEXT, *b"efg", END_OF_TEXT]


def test_segments_say_where_each_example_stands(tmp_path: Path, tiny_phi: Path) -> None:
    batch = _batch(tmp_path, tiny_phi)
    assert batch.lengths == (3, 13)  # padded behind the last example, so that few sizes occur
    assert batch.places_N.tolist() == [*range(3), *range(13)]


def test_padded_examples_are_equally_long(tmp_path: Path, tiny_phi: Path) -> None:
    training = render(tmp_path, tiny_phi, LINES, validation=[]).training
    batch = collate([training[0], training[1]], CPU, padded=True)
    assert batch.input_ids_N.tolist() == [*b"abc", PADDING_ID, *b"defg"]
    assert (batch.lengths, batch.positions_K.tolist()) == ((4, 4), [1, 2, 4, 5, 6, 7])


def test_all_rows_adds_positions_of_weight_zero(tmp_path: Path, tiny_phi: Path) -> None:
    training = render(tmp_path, tiny_phi, LINES, validation=[]).training
    batch = collate([training[0], training[1]], CPU, all_rows=True)
    assert batch.targets_K.tolist() == [*b"bc", END_OF_TEXT, *b"efg", END_OF_TEXT]
    assert batch.weights_K.tolist() == [0, 1, 1, 1, 1, 1, 1]


def test_weights_move_with_their_targets(tmp_path: Path, tiny_phi: Path) -> None:
    batch = _batch(tmp_path, tiny_phi, weight=0.5)
    assert batch.targets_K.tolist() == [*b"bc", END_OF_TEXT, *b"efg", END_OF_TEXT]
    assert batch.weights_K.tolist() == [0.5, 1, 1, 1, 1, 1, 1]
    assert batch.is_completion_K.tolist() == [False, True, True, True, True, True, True]


def test_evaluation_scores_completions_alone_whatever_the_prompt_weighs(tmp_path: Path, tiny_phi: Path) -> None:
    batch = _batch(tmp_path, tiny_phi, weight=0.5, completion_only=True)
    assert batch.targets_K.tolist() == [*b"c", END_OF_TEXT, *b"efg", END_OF_TEXT]
    assert batch.weights_K.tolist() == [1.0] * 6


def test_the_closing_token_stays_a_target_when_padding_has_its_id(tmp_path: Path, tiny_llama: Path) -> None:
    """tiny_llama's config names the closing token as the pad token, as many published ones do."""
    batch = _batch(tmp_path, tiny_llama)
    assert batch.targets_K.tolist().count(END_OF_TEXT) == 2


def test_batches_of_several_adapters_lie_one_behind_the_other(tmp_path: Path, tiny_phi: Path) -> None:
    training = render(tmp_path, tiny_phi, LINES, validation=[]).training
    first, second = (collate([training[n]], CPU, adapter=name) for n, name in enumerate("ab"))
    both = join([first, second])
    assert both.owned == (Owned("a", inputs=16, scored=2), Owned("b", inputs=16, scored=4))
    assert (both.lengths, both.inputs, both.tokens) == ((16, 16), (3, 4), first.tokens + second.tokens)
    assert both.input_ids_N[both.positions_K].tolist() == [*b"bc", *b"defg"]
    assert both.places_N.tolist() == [*range(16)] * 2
    assert both.targets_K.tolist() == [*first.targets_K.tolist(), *second.targets_K.tolist()]
    assert join([first]) is first
