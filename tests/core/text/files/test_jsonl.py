"""Strictness of JSONL: what a lenient parser would drop or change in silence is refused, with its line and a code."""

import io

import orjson
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from core.text.files.examples import (
    MAX_COLUMNS,
    MAX_DEPTH,
    Chat,
    Columns,
    Example,
    LineProblem,
    Message,
    PromptCompletion,
)
from core.text.files.jsonl import line_of, parse_line, read_jsonl, read_line

GOOD = b'{"prompt": "a", "completion": "b"}'


def problem_of(raw: bytes) -> LineProblem:
    with pytest.raises(LineProblem) as caught:
        parse_line(raw, 7)
    assert caught.value.line == 7
    return caught.value


@pytest.mark.parametrize(
    ("raw", "code", "part"),
    [
        (b'{"a": 1, "b": 2, "a": 1}', "duplicate_key", '"a" stands twice'),
        (b'{"a": {"b": 1, "b": 1}}', "duplicate_key", '"b" stands twice'),
        (b'{"a": [[{"b": 1, "b": 1}]]}', "duplicate_key", '"b" stands twice'),
        (rb'{"prompt": "a", "\u0070rompt": "b", "completion": "c"}', "duplicate_key", '"prompt" stands twice'),
        (rb'{"a\"": 1, "a\u0022": 2}', "duplicate_key", r'"a\"" stands twice'),
        (b'{"a"\t : 1, "a" :2}', "duplicate_key", '"a" stands twice'),
        (b'{"messages": [{"role": "user", "role": "user"}]}', "duplicate_key", '"role" stands twice'),
        (b'{"a": NaN}', "not_a_number", "NaN is not JSON"),
        (b'{"a": [1, -Infinity]}', "not_a_number", "-Infinity is not JSON"),
        (b'{"a": 1e999}', "malformed", "infinity"),
        (rb'{"a": "\ud83d"}', "lone_surrogate", "half a character"),
        (rb'{"a": "\ude00\ud83d"}', "lone_surrogate", "half a character"),
        (rb'{"\u0000": 1}', "nul", "NUL"),
        (rb'{"a": {"b\u0000": 1}}', "nul", "NUL"),
        (b'{"a": "\xc3"}', "not_utf8", "byte 8 is 0xc3"),
        ('{"a": "x"}'.encode("utf-16"), "not_utf8", "not UTF-8: byte 1 is 0xff"),
        (b"null", "not_an_object", "not null"),
        (b'"text"', "not_an_object", "not a string"),
        (b'{"id": 18446744073709551616}', "number_too_large", "18446744073709551616 is too large"),
        (b'{"id": -9223372036854775809}', "number_too_large", "write it as a string"),
        (b'{"id": ' + b"9" * 300 + b"}", "number_too_large", "999... is too large"),
        (b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}", "nested_too_deeply", "more than 64 deep"),
        (b"{" + b",".join(b'"k%d": 1' % n for n in range(MAX_COLUMNS + 1)) + b"}", "malformed", "1,025 columns"),
    ],
)
def test_refuses_with_code_and_place(raw: bytes, code: str, part: str) -> None:
    problem = problem_of(raw)
    assert problem.code == code
    assert part in problem.reason


@pytest.mark.parametrize("text", ['a":', '": "', 'say "x": "y"', '":":":', '\\":'])
def test_a_text_that_looks_like_a_key_costs_a_second_reading_and_no_refusal(text: str) -> None:
    raw = orjson.dumps({"prompt": text, "completion": text})
    assert parse_line(raw, 1) == PromptCompletion(1, text, text)


def test_a_repeated_key_behind_a_text_that_looks_like_one_is_found() -> None:
    assert problem_of(rb'{"a": "\":", "b": 1, "b": 2}').code == "duplicate_key"


def test_equal_keys_in_different_objects_are_no_repetition() -> None:
    values = {"a": {"x": 1}, "b": [{"x": 1}, {"x": 2, "a": 0}]}
    assert parse_line(orjson.dumps(values), 1) == Columns(1, values)


@pytest.mark.parametrize("number", [0, -(2**63), 2**64 - 1, 0.1234567890123456789])
def test_numbers_of_many_digits_are_kept(number: float) -> None:
    assert parse_line(b'{"a": %s}' % str(number).encode(), 1) == Columns(1, {"a": number})


def test_digits_in_a_text_are_no_number() -> None:
    text = "9" * 40
    assert parse_line(orjson.dumps({"a": text}), 1) == Columns(1, {"a": text})


@pytest.mark.parametrize("depth", [MAX_DEPTH - 1, MAX_DEPTH])
def test_nesting_up_to_the_limit_is_allowed(depth: int) -> None:
    assert isinstance(parse_line(b'{"a": ' + b"[" * depth + b"]" * depth + b"}", 1), Columns)


def test_the_reasons_stay_short_whatever_the_line_holds() -> None:
    long = b"k" * 500_000
    for raw in (
        b'{"%b": 1, "%b": 2}' % (long, long),
        b'{"prompt": "a", "completion": "b", "%b": 1}' % long,
        b'{"messages": [{"role": "%b"}]}' % long,
        b'{"messages": [{"role": %b}]}' % (b"[" * 60 + b"]" * 60),
        b'{"messages": [{"role": "user", "%b": 1}]}' % long,
        b'{"prompt": "a", "completion": "b", "mask_spans": [["%b"]]}' % long,
    ):
        assert len(problem_of(raw).reason) < 400


@pytest.mark.parametrize(
    ("raw", "place"),
    [
        (b'{"prompt": "", "completion": "abc", "mask_spans": {}}', "mask_spans must be a list"),
        (b'{"prompt": "", "completion": "abc", "mask_spans": [[0, 1], [2, 2]]}', "mask_spans[1] must be [begin, end]"),
        (b'{"prompt": "", "completion": "abc", "mask_spans": [[0, 4]]}', "begin < end <= 3, not [0,4]"),
        (b'{"prompt": "", "completion": "abc", "mask_spans": [[true, 2]]}', "mask_spans[0]"),
        (b'{"prompt": "", "completion": "abc", "mask_spans": [[0.0, 2]]}', "mask_spans[0]"),
        (b'{"prompt": "", "completion": "abc", "mask_spans": [[-1, 2]]}', "mask_spans[0]"),
        (
            b'{"messages": [{"role": "user", "content": "a"},'
            b' {"role": "assistant", "content": "b", "mask_spans": [[0, 9]]}]}',
            "messages[1].mask_spans[0] must be [begin, end]",
        ),
        (
            b'{"messages": [{"role": "user", "content": "a", "mask_spans": []},'
            b' {"role": "assistant", "content": "b"}]}',
            'messages[0].mask_spans: only messages from "assistant"',
        ),
    ],
)
def test_a_refused_mask_span_is_named_with_its_place(raw: bytes, place: str) -> None:
    assert place in problem_of(raw).reason


def test_mask_spans_count_characters_and_not_bytes() -> None:
    example = parse_line('{"prompt": "", "completion": "日本語", "mask_spans": [[1, 3]]}'.encode(), 1)
    assert isinstance(example, PromptCompletion)
    assert example.mask_spans == ((1, 3),)


def test_reading_goes_on_behind_an_over_long_line() -> None:
    long = b'{"prompt": "' + b"x" * 3_000_000 + b'", "completion": "b"}'
    found = list(read_jsonl(io.BytesIO(GOOD + b"\n" + long + b"\n" + GOOD), 1000))
    assert [(type(item), item.line) for item in found] == [
        (PromptCompletion, 1),
        (LineProblem, 2),
        (PromptCompletion, 3),
    ]


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_line_of_exactly_the_limit_is_read(end: bytes) -> None:
    assert [type(item) for item in read_jsonl(io.BytesIO(GOOD + end), len(GOOD))] == [PromptCompletion]
    assert [type(item) for item in read_jsonl(io.BytesIO(GOOD + end), len(GOOD) - 1)] == [LineProblem]


_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
_ANSWER = _TEXT.filter(str.strip)
_NUMBER = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
_VALUE = st.none() | st.booleans() | _NUMBER | _TEXT
_SPANS = st.sampled_from([(), ((0, 1),)])


@given(
    _ANSWER.flatmap(
        lambda answer: st.one_of(
            st.builds(lambda prompt, spans: PromptCompletion(3, prompt, answer, spans), _TEXT, _SPANS),
            st.builds(
                lambda said, weight: Chat(
                    3, (Message("system", said), Message("user", said), Message("assistant", answer, weight, ((0, 1),)))
                ),
                _TEXT,
                st.floats(0, 1),
            ),
            st.builds(Columns, st.just(3), st.dictionaries(_ANSWER, _VALUE | st.lists(_VALUE), min_size=1)),
        )
    )
)
def test_an_example_that_is_written_is_read_as_the_same(example: Example) -> None:
    if isinstance(example, Columns):
        assume(not {"messages", "prompt", "completion"} & set(example.values))
    line = line_of(example)
    assert line.count(b"\n") == 1
    assert read_line(line, 3) == example
