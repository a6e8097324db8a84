"""Metrics that hold an answer to be right or wrong, or right in parts."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.scoring.exactness import Normalization, exact_match
from core.scoring.json_values import MAX_DEPTH, leaves
from core.scoring.registry import METRICS
from tests.core.scoring.samples import TEXTS, of

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)


class TestExactMatch:
    @pytest.mark.parametrize(
        ("normalization", "answer", "reference", "expected"),
        [
            ("none", "a", "a", 1),
            ("none", "a ", "a", 0),
            ("strip", " a\n", "a", 1),
            ("strip", "A", "a", 0),
            ("strip", "a  b", "a b", 0),
            ("casefold", "STRASSE ", "straße", 1),
            ("casefold", "b", "a", 0),
            ("json", '{"b": 1.0, "a": [true]}', '{"a":[true],"b":1}', 1),
            ("json", "[1, 2]", "[2, 1]", 0),
            ("json", "[true]", "[1]", 0),
            ("json", '{"0": 1}', "[1]", 0),
            ("json", "[]", "{}", 0),
            ("json", "```{}```", "{}", 0),
            ("json", "{}", "no JSON", None),
        ],
    )
    def test_the_run_says_what_does_not_count(
        self, normalization: Normalization, answer: str, reference: str, expected: float | None
    ) -> None:
        assert exact_match(of(answer, reference), normalization) == expected

    @given(answer=TEXTS, reference=TEXTS)
    def test_what_matches_strictly_matches_loosely(self, answer: str, reference: str) -> None:
        strict, stripped, folded = (
            exact_match(of(answer, reference), normalization) for normalization in ("none", "strip", "casefold")
        )
        assert strict is not None
        assert stripped is not None
        assert folded is not None
        assert strict <= stripped <= folded
        assert (strict == 1) == (answer == reference)


class TestJson:
    @given(JSON)
    def test_how_it_is_written_does_not_count(self, value: object) -> None:
        written = (json.dumps(value), json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False))
        assert METRICS["json_field_f1"].score(of(*written)) == exact_match(of(*written), "json") == 1

    @given(JSON, JSON)
    def test_it_is_a_share_and_all_of_it_for_equal_values_only(self, one: object, other: object) -> None:
        pair = of(json.dumps(one), json.dumps(other))
        found = METRICS["json_field_f1"].score(pair)
        assert found is not None
        assert 0 <= found <= 1
        assert (found == 1) == (exact_match(pair, "json") == 1)

    def test_each_field_counts_where_it_stands(self) -> None:
        reference = '{"name": "x", "tags": [1, 2], "size": {"w": 3}}'
        answer = '{"name": "x", "tags": [2, 1], "size": {"w": 3, "h": 4}}'
        assert METRICS["json_field_f1"].score(of(answer, reference)) == pytest.approx(2 * 2 / (4 + 5))

    def test_an_answer_that_is_no_json_has_nothing_and_a_reference_that_is_none_asks_for_nothing(self) -> None:
        assert METRICS["json_field_f1"].score(of("sorry", "{}")) == 0
        assert METRICS["json_field_f1"].score(of("{}", "sorry")) is None

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "NaN",
            '{"a": -Infinity}',
            '{"a": 1, "a": 1}',
            "[" * (MAX_DEPTH + 1) + "1" + "]" * (MAX_DEPTH + 1),
            "[" * 100_000,
            "1e99999999999999999999",
        ],
    )
    def test_what_is_no_json_is_told_from_what_is(self, text: str) -> None:
        assert leaves(text) is None
        assert leaves("[" * MAX_DEPTH + "1" + "]" * MAX_DEPTH) is not None


class TestNumbers:
    @pytest.mark.parametrize(
        ("answer", "reference", "expected"),
        [
            ("so it is 42.", "#### 42", 1),
            ("1,234 apples", "1234", 1),
            ("first 3, then 4", "3", 0),
            ("= 0.50", ".5 is 0.5", 1),
            ("−7", "-7", 1),
            ("1e3", "1000", 1),
            ("none", "7", 0),
            ("7", "none", None),
            ("v2", "2", 0),
            ("10%", "10", 1),
            ("$5", "5", 1),
            ("1,23", "1", 0),
            ("9" * 6000, "9" * 6000, 1),
        ],
    )
    def test_the_last_number_counts_by_value(self, answer: str, reference: str, expected: float | None) -> None:
        assert METRICS["numeric_match"].score(of(answer, reference)) == expected

    @given(st.integers(-(10**9), 10**9), st.integers(-(10**9), 10**9))
    def test_numbers_match_if_they_are_equal(self, one: int, other: int) -> None:
        assert METRICS["numeric_match"].score(of(f"it is {one:,}", f"{other}")) == float(one == other)


class TestLabels:
    LABELS = frozenset({"refund", "other"})

    @pytest.mark.parametrize(
        ("answer", "reference", "expected"),
        [
            (" refund\n", "refund", 1),
            ("Refund", "refund", 0),
            ("other", "refund", 0),
            ("x", "refund", 0),
            ("a story", "a story", None),
        ],
    )
    def test_an_answer_is_right_if_it_is_the_label(self, answer: str, reference: str, expected: float | None) -> None:
        assert METRICS["label_accuracy"].score(of(answer, reference, labels=self.LABELS)) == expected

    def test_without_labels_there_is_no_accuracy(self) -> None:
        assert METRICS["label_accuracy"].score(of("a", "a")) is None
