"""Metrics of how much of the reference an answer holds."""

import pytest
from hypothesis import given

from core.scoring.registry import METRICS
from core.scoring.words import MAX_PAIRS
from tests.core.scoring.samples import TEXTS, of

NAMES = ("token_f1", "rouge_l", "chrf", "edit_similarity")


@pytest.mark.parametrize("name", NAMES)
@given(answer=TEXTS, reference=TEXTS)
def test_it_is_a_share_and_all_of_it_only_for_what_it_cannot_tell_from_the_reference(
    name: str, answer: str, reference: str
) -> None:
    found = METRICS[name].score(of(answer, reference))
    assert found is None or 0 <= found <= 1
    assert METRICS[name].score(of(reference, reference)) in (None, pytest.approx(1))
    if name == "edit_similarity" and found is not None:
        assert (found == 1) == (answer == reference)


@pytest.mark.parametrize("name", NAMES)
@given(text=TEXTS)
def test_an_empty_answer_has_nothing_of_a_reference(name: str, text: str) -> None:
    assert METRICS[name].score(of("", text)) in (None, 0.0)
    assert METRICS[name].score(of("", "word")) == 0.0
    assert METRICS[name].score(of("", "")) is None


@pytest.mark.parametrize("name", ["token_f1", "rouge_l", "edit_similarity"])
@given(one=TEXTS, other=TEXTS)
def test_answer_and_reference_may_change_places(name: str, one: str, other: str) -> None:
    assert METRICS[name].score(of(one, other)) == METRICS[name].score(of(other, one))


def test_the_order_of_words_counts_for_rouge_l_and_not_for_token_f1() -> None:
    turned = of("dog bites man", "man bites dog")
    assert METRICS["token_f1"].score(turned) == 1
    assert METRICS["rouge_l"].score(turned) == pytest.approx(1 / 3)


def test_a_script_without_spaces_is_scored_by_its_characters() -> None:
    near, far = of("我喜欢狗", "我喜欢猫"), of("他讨厌鸟", "我喜欢猫")
    for name in NAMES:
        close, apart = METRICS[name].score(near), METRICS[name].score(far)
        assert close is not None
        assert apart == 0
        assert close > 0.3


def test_a_symbol_of_code_counts_by_characters_only() -> None:
    code = of("x = a - b", "x = a + b")
    assert METRICS["token_f1"].score(code) == 1
    for name in ("chrf", "edit_similarity"):
        found = METRICS[name].score(code)
        assert found is not None
        assert found < 1


def test_texts_too_long_for_an_order_aware_comparison_have_none_and_those_at_the_bound_have_one() -> None:
    side = int(MAX_PAIRS**0.5)
    long = of("ab" * (side // 2), "ba" * (side // 2))
    beyond = of("ab" * (side // 2) + "a", "ba" * (side // 2))
    assert METRICS["edit_similarity"].score(long) == pytest.approx(1, abs=1e-4)
    assert METRICS["edit_similarity"].score(beyond) is None
    assert METRICS["chrf"].score(beyond) == pytest.approx(1, abs=1e-4)
    many = of("a " * (side + 1), "b " * side)
    assert METRICS["rouge_l"].score(many) is None
    assert METRICS["token_f1"].score(many) == 0
