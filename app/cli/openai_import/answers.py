"""Stored answers of a model at OpenAI as rows of an evaluation, whose new answers are held against them."""

from pathlib import Path
from typing import Any, BinaryIO

import orjson

from app.cli.openai_import.rows import translate_rows
from core.errors import StartRefused


def answers_as_rows(source: BinaryIO, target: Path, *, conversations: bool) -> int:
    """Write a file of ``prompt`` and ``answer`` as rows of the shape that the model was trained on; give how many.

    Args:
        conversations: whether that shape is one of messages; a prompt that is a text is then the user's message.

    Raises:
        StartRefused: a line is malformed, or its prompt has another shape.
    """
    written = target.with_name(f"{target.name}.untranslated")
    with written.open("wb") as file:
        for number, line in enumerate(source, start=1):
            if line.strip():
                file.write(orjson.dumps(_row(line, number, conversations=conversations)) + b"\n")
    with written.open("rb") as file, target.open("wb") as rows:
        return translate_rows("the file of stored answers", file, rows).rows


def _row(line: bytes, number: int, *, conversations: bool) -> dict[str, Any]:
    try:
        told = orjson.loads(line)
        prompt, answer = told["prompt"], told["answer"]
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise StartRefused(f"stored answers, line {number}: expected an object with prompt and answer") from error
    if conversations:
        turns = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
        return {"messages": [*turns, {"role": "assistant", "content": answer}]}
    if not isinstance(prompt, str):
        raise StartRefused(
            f"stored answers, line {number}: prompt must be a text, as the training data has no messages"
        )
    return {"prompt": prompt, "completion": answer}
