"""Which of OpenAI's training rows are trained on here, as what, and which refuse their file."""

import io
import json
from typing import Any

import pytest

from app.cli.openai_import.rows import TranslatedRows, translate_rows
from core.errors import StartRefused

USER = {"role": "user", "content": "q"}
ANSWER = {"role": "assistant", "content": "a"}


def chat(*turns: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"messages": list(turns)} | fields


def translated(*rows: dict[str, Any]) -> tuple[TranslatedRows, list[Any]]:
    source = io.BytesIO("".join(json.dumps(row) + "\n" for row in rows).encode())
    target = io.BytesIO()
    told = translate_rows("file-x", source, target)
    return told, [json.loads(line) for line in target.getvalue().splitlines()]


def test_rows_of_both_shapes_stay_as_they_are() -> None:
    weighted = chat({"role": "system", "content": "s"}, USER, ANSWER | {"weight": 0}, USER, ANSWER)
    told, rows = translated(weighted, chat(USER, ANSWER))
    assert rows == [weighted, chat(USER, ANSWER)]
    assert (told.rows, told.conversations, dict(told.changes)) == (2, 2, {})
    plain = {"prompt": "p", "completion": "c"}
    told, rows = translated(plain)
    assert (rows, told.conversations) == ([plain], 0)


def test_what_means_the_same_here_is_written_so_and_counted() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    told, rows = translated(
        chat({"role": "developer", "content": "s"}, USER | {"content": parts, "name": "ann"}, ANSWER),
        chat(USER, ANSWER | {"tool_calls": None, "refusal": None}, tools=[], parallel_tool_calls=True),
    )
    assert rows == [
        chat({"role": "system", "content": "s"}, {"role": "user", "content": "ab"}, ANSWER),
        chat(USER, ANSWER),
    ]
    assert sorted(told.changes.values()) == [1, 1, 1, 1]


IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (chat(USER, ANSWER, tools=[{"type": "function"}]), "tools: tools cannot"),
        (chat(USER, ANSWER, functions=[{}]), "functions: functions cannot"),
        (chat(USER, ANSWER | {"tool_calls": [{}]}, USER, ANSWER), "messages[1].tool_calls: calls of tools"),
        (chat(USER, {"role": "tool", "content": "x"}, ANSWER), 'messages[1].role "tool": answers of tools'),
        (chat({"role": "user", "content": [IMAGE]}, ANSWER), "messages[0].content[0]: images (vision)"),
        (chat(USER, ANSWER | {"refusal": "no"}), '"refusal" is not supported'),
        (chat(USER, ANSWER | {"audio": {"id": "x"}}), "messages[1].audio: audio"),
        ({"input": chat(USER), "preferred_output": [ANSWER]}, "input: preferences (DPO)"),
        (chat(USER, ANSWER, reference_answer="x"), '"reference_answer" is not supported'),
        ({"question": "x"}, "neither messages nor prompt and completion"),
        (chat(USER), 'must end with a message from "assistant"'),
        ({"prompt": "p", "completion": " "}, '"completion" is empty'),
    ],
    ids=str,
)
def test_what_has_no_meaning_here_refuses_the_file_by_line_and_name(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(StartRefused) as refused:
        translated(chat(USER, ANSWER), row)
    assert "file-x cannot be trained on here: line 2: " in str(refused.value)
    assert reason in str(refused.value)


def test_all_problems_are_told_up_to_twenty() -> None:
    with pytest.raises(StartRefused) as refused:
        translated(*[chat(USER, ANSWER, tools=[{}])] * 23)
    assert str(refused.value).count("tools cannot") == 20
    assert str(refused.value).endswith("and 3 lines more")


def test_lines_that_are_no_json_empty_files_and_mixed_ones_are_refused() -> None:
    for content, reason in (
        (b'{"prompt": "p"', "line 1: no JSON"),
        (b"\n\n", "it has no rows"),
        (b'{"prompt": "p", "completion": "c"}\n' + json.dumps(chat(USER, ANSWER)).encode(), "only some"),
    ):
        with pytest.raises(StartRefused, match=reason):
            translate_rows("file-x", io.BytesIO(content), io.BytesIO())


def test_lines_keep_their_numbers() -> None:
    rows = b"\n" + json.dumps(chat(USER, ANSWER)).encode() + b"\n\n"
    target = io.BytesIO()
    assert translate_rows("file-x", io.BytesIO(rows), target).rows == 1
    assert target.getvalue().count(b"\n") == 3
