"""Which rows are trained on, chosen by and judged by."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InvalidParameter
from core.experiments.parts import RowPart, refuse_few, refuse_overlap, rows_of, split
from core.text.held_out import draw, hash_of


def prompts(count: int) -> list[tuple[int, str]]:
    return [(line, f"question {line}") for line in range(1, count + 1)]


@given(count=st.integers(20, 200), repeats=st.integers(0, 40), chooses=st.booleans())
def test_no_prompt_is_in_two_parts_however_it_is_written(count: int, repeats: int, chooses: bool) -> None:
    rows = prompts(count) + [(1000 + line, f"  QUESTION  {line} ") for line in range(1, repeats + 1)]
    parts = split(rows, judges=True, chooses=chooses)
    assert set(parts) == {line for line, _ in rows}
    by_prompt: dict[int, set[RowPart]] = {}
    for line, text in rows:
        by_prompt.setdefault(hash_of(text), set()).add(parts[line])
    assert all(len(found) == 1 for found in by_prompt.values())
    assert (RowPart.CHOOSE in parts.values()) == chooses


def test_the_judges_rows_are_those_that_any_job_on_the_file_holds_out() -> None:
    rows = prompts(300)
    held_out = draw(text for _, text in rows)
    for chooses in (False, True):
        parts = split(rows, judges=True, chooses=chooses)
        assert {hash_of(text) for line, text in rows if parts[line] is RowPart.JUDGE} == held_out


def test_to_choose_alone_the_same_tenth_is_taken() -> None:
    rows = prompts(100)
    choosing, judging = (
        {line for line, part in split(rows, judges=judges, chooses=not judges).items() if part is not RowPart.TRAIN}
        for judges in (False, True)
    )
    assert choosing == judging
    assert len(choosing) == 10


def test_too_few_prompts_for_all_parts_are_refused() -> None:
    with pytest.raises(InvalidParameter, match="has too few prompts to train"):
        split([(1, "one"), (2, "One")], judges=False, chooses=True)


def test_fewer_than_two_rows_to_be_judged_by_are_refused() -> None:
    with pytest.raises(InvalidParameter, match="judge: the held-out part of the training file has 1 row"):
        split(prompts(9), judges=True, chooses=False)
    with pytest.raises(InvalidParameter, match="judge: has 1 rows"):
        refuse_few(rows_of(prompts(1)), "judge")
    refuse_few(rows_of(prompts(2)), "judge")


def test_rows_to_be_judged_by_that_are_trained_on_are_refused_with_their_lines() -> None:
    trained = rows_of(prompts(50))
    refuse_overlap(rows_of([(1, "another question")]), trained, "the training file", "judge")
    with pytest.raises(InvalidParameter) as caught:
        refuse_overlap(
            rows_of([(1, "fresh"), (2, "Question   7"), (3, "question 9")]), trained, "the training file", "judge"
        )
    assert caught.value.param == "judge"
    assert "2 (line 7 of the training file), 3 (line 9 of the training file)" in caught.value.reason
    with pytest.raises(InvalidParameter, match=r"and 3 more have prompts"):
        refuse_overlap(rows_of(prompts(8)), trained, "the training file", "judge")
