"""Training data of OpenAI's as Loramill's: conversations of texts, each line in its place.

What has no meaning here, as tools, images and preferences, refuses the file, by line and name: a model that had learnt
from the rest of a row would be another than what was asked for.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final

import orjson

from core.errors import StartRefused
from core.text.files.examples import Chat, Columns, LineProblem, shown
from core.text.files.jsonl import parse_line

_SHOWN: Final = 20  # problems
_ROW_KEYS: Final = {  # and what each asks for
    "tools": "tools",
    "functions": "functions",
    "input": "preferences (DPO)",
    "preferred_output": "preferences (DPO)",
    "non_preferred_output": "preferences (DPO)",
}
_OF_TOOLS: Final = "parallel_tool_calls"
_MESSAGE_KEYS: Final = {"tool_calls": "calls of tools", "function_call": "calls of functions", "audio": "audio"}
_ROLES: Final = {"tool": "answers of tools", "function": "answers of functions"}
_PARTS: Final = {"image_url": "images (vision)", "input_audio": "audio", "file": "files", "refusal": "refusals"}


@dataclass
class TranslatedRows:
    """What became of a file. ``changes``: what was written otherwise, in words, and in how many places."""

    rows: int = 0
    conversations: int = 0
    changes: Counter[str] = field(default_factory=Counter)


def translate_rows(name: str, source: BinaryIO, target: BinaryIO) -> TranslatedRows:
    """Write a file's rows as they are trained on here, line by line.

    Args:
        name: of the file, for people.

    Raises:
        StartRefused: some lines are none that can be; it names them.
    """
    told, problems = TranslatedRows(), []
    for number, raw in enumerate(source, start=1):
        if not raw.strip():
            target.write(raw)
            continue
        try:
            row = orjson.loads(raw)
            if isinstance(row, dict):
                raw = orjson.dumps(_row(row, number, told.changes)) + b"\n"
            told.conversations += _is_conversation(raw, number)
        except orjson.JSONDecodeError as error:
            problems.append(LineProblem(number, f"no JSON: {error}"))
        except LineProblem as problem:
            problems.append(problem)
        told.rows += 1
        target.write(raw)
    if not problems and 0 < told.conversations < told.rows:
        raise StartRefused(f"{name} cannot be trained on here: only some of its rows are conversations")
    if problems or not told.rows:
        raise StartRefused(f"{name} cannot be trained on here: {'; '.join(_listed(problems)) or 'it has no rows'}")
    return told


def _is_conversation(raw: bytes, line: int) -> bool:
    """Say whether a row that can be trained on is a conversation.

    Raises:
        LineProblem: it cannot.
    """
    example = parse_line(raw, line)
    if isinstance(example, Columns):
        raise LineProblem(line, "it has neither messages nor prompt and completion")
    return isinstance(example, Chat)


def _listed(problems: list[LineProblem]) -> Iterator[str]:
    yield from map(str, problems[:_SHOWN])
    if len(problems) > _SHOWN:
        yield f"and {len(problems) - _SHOWN:,} lines more"


def _row(row: dict[str, Any], line: int, changes: Counter[str]) -> dict[str, Any]:
    for key, what in _ROW_KEYS.items():
        if row.get(key):
            raise LineProblem(line, f"{key}: {what} cannot be learnt here")
    kept = {key: value for key, value in row.items() if key not in (*_ROW_KEYS, _OF_TOOLS)}
    if _OF_TOOLS in row:
        changes[f"{_OF_TOOLS} is left out, as it means nothing without tools"] += 1
    if isinstance(row.get("messages"), list):
        kept["messages"] = [
            _message(turn, f"messages[{place}]", line, changes) for place, turn in enumerate(row["messages"])
        ]
    return kept


def _message(turn: Any, place: str, line: int, changes: Counter[str]) -> Any:
    if not isinstance(turn, dict):
        return turn  # which the reader refuses
    role = turn.get("role")
    if role in _ROLES:
        raise LineProblem(line, f"{place}.role {shown(role)}: {_ROLES[role]} cannot be learnt here")
    for key, what in _MESSAGE_KEYS.items():
        if turn.get(key):
            raise LineProblem(line, f"{place}.{key}: {what} cannot be learnt here")
    # null asks for nothing; an assistant's refusal is refused below as any other key that is not known
    kept = {key: value for key, value in turn.items() if value is not None and key not in _MESSAGE_KEYS}
    if role == "developer":
        kept["role"] = "system"
        changes["messages of the role developer are of the role system"] += 1
    if "name" in kept:
        del kept["name"]
        changes["names of messages are left out, as chat templates here have none"] += 1
    if isinstance(kept.get("content"), list):
        kept["content"] = "".join(_texts(kept["content"], f"{place}.content", line))
        changes["lists of text parts are one text, as they stand"] += 1
    return kept


def _texts(parts: list[Any], place: str, line: int) -> Iterator[str]:
    for index, part in enumerate(parts):
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind != "text" or not isinstance(part["text"], str):
            what = _PARTS.get(str(kind), shown(kind))
            raise LineProblem(line, f"{place}[{index}]: {what} cannot be learnt here")
        yield part["text"]
