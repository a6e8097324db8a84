from contextlib import suppress

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.text.files.examples import MAX_MESSAGES, Chat, Columns, LineProblem, Message, PromptCompletion
from core.text.files.jsonl import JSONL, parse_line
from core.text.files.read import read_examples


def reason_of(raw: bytes | str) -> str:
    with pytest.raises(LineProblem) as caught:
        parse_line(raw.encode() if isinstance(raw, str) else raw, 7)
    assert caught.value.line == 7
    return caught.value.reason


class TestShapes:
    def test_prompt_and_completion_are_kept_to_the_last_space(self) -> None:
        assert parse_line(b'{"prompt": "Q: ", "completion": " A\\n"}', 3) == PromptCompletion(3, "Q: ", " A\n")

    def test_an_empty_prompt_is_allowed(self) -> None:
        assert parse_line(b'{"prompt": "", "completion": "x"}', 1) == PromptCompletion(1, "", "x")

    def test_messages_carry_weights(self) -> None:
        raw = (
            b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0},'
            b' {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]}'
        )
        assert parse_line(raw, 1) == Chat(
            1,
            (
                Message("user", "a"),
                Message("assistant", "b", 0.0),
                Message("user", "c"),
                Message("assistant", "d", 1.0),
            ),
        )

    def test_any_other_object_is_columns(self) -> None:
        values = {"question": "q", "references": [{"title": "t"}], "score": 1.5, "note": None}
        assert parse_line(orjson.dumps(values), 2) == Columns(2, values)

    @given(prompt=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
    def test_any_text_survives_json(self, prompt: str) -> None:
        example = parse_line(orjson.dumps({"prompt": prompt, "completion": "x"}), 1)
        assert example == PromptCompletion(1, prompt, "x")


class TestRefusals:
    @pytest.mark.parametrize(
        ("raw", "part"),
        [
            ('{"promt": "a", "completion": "b"}', '"prompt" is missing; there is "promt"'),
            ('{"prompt": "a", "text": "b"}', '"completion" is missing'),
            ('{"prompt": "a", "completion": "b", "id": 1}', '"id" is not supported'),
            ('{"prompt": "a", "completion": "b", "messages": []}', '"prompt", "completion" is not supported'),
            ('{"prompt": 1, "completion": "b"}', '"prompt" must be a string, not a number'),
            ('{"prompt": "a", "completion": null}', '"completion" must be a string, not null'),
            ('{"prompt": "a", "completion": " \\n"}', '"completion" is empty'),
            ('{"messages": [], "tools": []}', '"tools" is not supported'),
            ('{"messages": {}}', '"messages" must be a list, not an object'),
            ('{"messages": []}', 'must end with a message from "assistant"'),
            ('{"messages": ["hi"]}', "messages[0] must be an object, not a string"),
            ('{"messages": [{"role": "user", "content": "a"}]}', 'must end with a message from "assistant"'),
            ('{"messages": [{"role": "assistant", "content": "a"}]}', "there is no prompt to answer"),
            ('{"messages": [{"role": "tool", "content": "a"}]}', 'messages[0].role must be "system"'),
            ('{"messages": [{"role": "user", "content": [{"type": "text"}]}]}', "messages[0].content must be a string"),
            ('{"messages": [{"role": "user", "content": "a", "name": "n"}]}', 'messages[0]: "name" is not supported'),
            ('{"messages": [{"role": "user", "content": "a", "weight": 1}]}', "messages[0].weight: only messages from"),
            ('{"messages": [{"role": "assistant", "content": " "}]}', "messages[0].content is empty"),
            (
                '{"messages": [{"role": "assistant", "content": "a", "weight": 2}]}',
                "weight must be a number from 0 to 1",
            ),
            ('{"messages": [{"role": "assistant", "content": "a", "weight": true}]}', "must be a number from 0 to 1"),
            ("[]", "expected a JSON object, not a list"),
            ("{}", "the object is empty"),
            ('{"prompt": "a"', "not one JSON object"),
            ('{"prompt": "a", "completion": "b"} {}', "not one JSON object"),
            ('{"prompt": "\\ud800", "completion": "b"}', "a lone surrogate"),
            ('{"prompt": NaN, "completion": "b"}', "NaN is not JSON"),
            ('{"prompt": "a", "prompt": "b", "completion": "c"}', 'the key "prompt" stands twice'),
            ('{"a": {"b": 1, "\\u0062": "\\":"}}', 'the key "b" stands twice'),
            ('{"a": {"b": ["x\\u0000"]}}', "NUL"),
            (b'{"prompt": "\xff", "completion": "b"}', "not UTF-8: byte 13 is 0xff"),
        ],
    )
    def test_names_what_is_wrong(self, raw: bytes | str, part: str) -> None:
        assert part in reason_of(raw)

    def test_an_escaped_backslash_before_u0000_is_no_nul(self) -> None:
        assert parse_line(rb'{"prompt": "\\u0000", "completion": "b"}', 1) == PromptCompletion(1, r"\u0000", "b")

    def test_more_messages_than_can_be_rendered_in_time(self) -> None:
        turns = [{"role": "user", "content": "a"}] * MAX_MESSAGES + [{"role": "assistant", "content": "b"}]
        assert "at most 1,024" in reason_of(orjson.dumps({"messages": turns}))

    @given(st.binary(max_size=60))
    def test_no_bytes_raise_anything_else(self, raw: bytes) -> None:
        with suppress(LineProblem):
            assert isinstance(parse_line(raw, 1), PromptCompletion | Chat | Columns)

    def test_deep_nesting_is_a_problem_and_no_crash(self) -> None:
        assert reason_of(b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}")


def test_read_examples_keeps_line_numbers_past_mark_and_blank_lines(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("examples") / "train.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt":"a","completion":"b"}\r\n \r\n{"prompt":"c","completion":"d"}')
    assert list(read_examples(path, JSONL)) == [PromptCompletion(1, "a", "b"), PromptCompletion(3, "c", "d")]
