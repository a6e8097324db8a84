"""Which prompts are held out: by their text alone."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.text.held_out import count_held_out, draw, draw_to_choose_and_to_judge, hash_of, normalised

PROMPTS = st.lists(st.text(max_size=6), max_size=60)
CHOSEN = [14, 15, 19, 39, 46, 51]  # of sixty


def count_distinct(prompts: list[str]) -> int:
    return len(set(map(normalised, prompts)))


@given(prompts=PROMPTS)
def test_a_tenth_of_the_distinct_prompts_is_drawn_at_least_one_and_never_all(prompts: list[str]) -> None:
    distinct = count_distinct(prompts)
    drawn = draw(prompts)
    assert len(drawn) == count_held_out(distinct)
    if distinct > 1:
        assert len(drawn) == max(1, distinct // 10) < distinct
    else:
        assert not drawn


@pytest.mark.parametrize(("prompts", "held_out"), [(0, 0), (1, 0), (2, 1), (16, 1), (19, 1), (24, 2), (1009, 100)])
def test_the_tenth_is_rounded_down(prompts: int, held_out: int) -> None:
    assert count_held_out(prompts) == held_out


@given(prompts=PROMPTS, order=st.randoms())
def test_neither_the_order_of_the_rows_nor_their_repetition_matters(prompts: list[str], order: random.Random) -> None:
    shuffled = prompts * 2
    order.shuffle(shuffled)
    assert draw(shuffled) == draw(prompts)


@given(old=PROMPTS, new=PROMPTS)
def test_appended_rows_move_the_old_ones_at_the_end_of_their_order_only(old: list[str], new: list[str]) -> None:
    before = draw(old)
    after = draw([*old, *new]) & set(map(hash_of, old))
    assert before <= after or after <= before


def test_the_choice_stays_the_same_across_versions() -> None:
    drawn = draw([f"prompt {n}" for n in range(60)])
    assert [n for n in range(60) if hash_of(f"prompt {n}") in drawn] == CHOSEN


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is it?", "what IS  it?\n"),
        ("Straße", "STRASSE"),
        ("cafe\u0301", "CAFÉ"),
        ("ＡＢＣ　１", "abc 1"),
        ("\tdef f():\n    pass", "def f(): pass"),
    ],
)
def test_prompts_that_differ_in_writing_only_are_one(one: str, other: str) -> None:
    assert hash_of(one) == hash_of(other)


@pytest.mark.parametrize(("one", "other"), [("3 + 4", "3 - 4"), ("3 + 4", "3 + 5"), ("a b", "ab"), ("är", "ar")])
def test_digits_punctuation_borders_of_words_and_accents_count(one: str, other: str) -> None:
    assert hash_of(one) != hash_of(other)


@given(prompts=PROMPTS)
def test_an_experiment_is_judged_by_what_any_job_holds_out_and_no_prompt_is_in_two_of_its_parts(
    prompts: list[str],
) -> None:
    choosing, judging = draw_to_choose_and_to_judge(prompts)
    distinct = count_distinct(prompts)
    assert judging == draw(prompts)
    assert not choosing & judging
    assert len(choosing) == min(len(judging), max(0, distinct - len(judging) - 1))
    assert len(choosing) + len(judging) < max(1, distinct)
