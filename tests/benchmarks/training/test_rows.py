from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.training.rows import CLOSING_ID, IGNORE_INDEX, Rows, TokenRow, generate, sample

VOCABULARY = 51_200
PINNED = (28815, 890, 38035, 17369)


@pytest.fixture(scope="module")
def rows() -> Rows:
    return generate(64, 16, vocabulary=VOCABULARY, seed=0)


def test_the_same_seed_gives_the_same_ids_and_another_one_others(rows: Rows) -> None:
    assert generate(64, 16, vocabulary=VOCABULARY, seed=0) == rows
    assert generate(64, 16, vocabulary=VOCABULARY, seed=1) != rows
    # pinned, so that results of different days are about the same rows
    assert rows.training[0].ids[:4] == PINNED


@pytest.mark.parametrize("count", [64, 512])
def test_lengths_are_spread_as_gsm8ks_are(count: int) -> None:
    made = generate(count, 1, vocabulary=VOCABULARY, seed=0).training
    lengths = sorted(len(row.ids) for row in made)
    tokens = sum(lengths)
    assert tokens / count == pytest.approx(156, abs=3)
    assert sum(row.trained_tokens for row in made) / tokens == pytest.approx(0.62, abs=0.01)
    assert 60 < lengths[count // 20] < 90  # the short ones
    assert 235 < lengths[-count // 20] < 300  # the long ones


def test_every_row_ends_with_the_only_closing_token_and_no_two_are_equal(rows: Rows) -> None:
    every = (*rows.training, *rows.held_out)
    assert all(row.ids[-1] == CLOSING_ID and CLOSING_ID not in row.ids[:-1] for row in every)
    assert all(CLOSING_ID <= token < VOCABULARY for row in every for token in row.ids)
    assert len({row.ids for row in every}) == len(every)


def test_held_out_completions_follow_what_training_shows(rows: Rows) -> None:
    seen = {pair for row in rows.training for pair in _pairs(row)}
    new = [pair in seen for row in rows.held_out for pair in _pairs(row)]
    assert sum(new) / len(new) > 0.8


def _pairs(row: TokenRow) -> list[tuple[int, int]]:
    completion = row.ids[row.prompt_tokens :]
    return list(pairwise(completion))


def test_labels_are_the_completion_in_its_place() -> None:
    row = TokenRow((5, 6, 7, 8), prompt_tokens=2)
    assert row.labels == [IGNORE_INDEX, IGNORE_INDEX, 7, 8]
    assert row.completion_mask == [0, 0, 1, 1]


def test_a_sample_keeps_order_and_mean_length(rows: Rows) -> None:
    mean = sum(len(row.ids) for row in rows.training) / 64
    for count in (16, 32):
        chosen = sample(rows.training, count)
        assert len(chosen) == count
        assert list(chosen) == [row for row in rows.training if row in chosen]
        assert sum(len(row.ids) for row in chosen) / count == pytest.approx(mean, rel=0.03)
    assert sample(rows.training, 64) == rows.training


def test_a_sample_of_one_is_of_mean_length(rows: Rows) -> None:
    [row] = sample(rows.training, 1)
    assert len(row.ids) == pytest.approx(sum(len(one.ids) for one in rows.training) / 64, abs=5)


def test_rows_come_back_from_their_file(rows: Rows, tmp_path: Path) -> None:
    rows.write(tmp_path / "rows.json")
    assert Rows.read(tmp_path / "rows.json") == rows
