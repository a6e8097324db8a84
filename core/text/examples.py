"""Training examples as users upload them: what one JSON line may hold, and reading a file of them.

Knows no tokenizer: whether an example fits a base model is decided when it is rendered.
"""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson

ExampleFormat = Literal["prompt_completion", "messages", "columns"]

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
BLANK = b" \t\r\n"
ROLES = ("system", "user", "assistant")
MAX_MESSAGES = 1024  # rendering takes time that grows with their square
SHAPES = ('"prompt" and "completion"', '"messages"', "columns for a prompt format")


class LineProblem(Exception):
    """One line of a file is not an example; ``reason`` is a sentence for the person who wrote the file."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(line, reason)

    @property
    def line(self) -> int:
        return int(self.args[0])

    @property
    def reason(self) -> str:
        return str(self.args[1])

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason}"


@dataclass(frozen=True, slots=True)
class PromptCompletion:
    """A prompt and the completion to learn. ``line`` counts from 1, as in every example."""

    line: int
    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation. ``weight`` scales the loss of an assistant's turn; 0 leaves it untrained."""

    role: str
    content: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation that ends with the assistant's turn."""

    line: int
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Columns:
    """Named values that a prompt format turns into prompt and completion."""

    line: int
    values: Mapping[str, Any]


Example = PromptCompletion | Chat | Columns


def format_of(example: Example) -> ExampleFormat:
    """Name the shape of an example."""
    match example:
        case PromptCompletion():
            return "prompt_completion"
        case Chat():
            return "messages"
        case Columns():
            return "columns"


def parse_line(raw: bytes, line: int) -> Example:
    """Read one line, with or without its line end.

    Raises:
        LineProblem: it is not one JSON object of a known shape.
    """
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise LineProblem(line, _json_reason(raw, error)) from error
    if not isinstance(value, dict):
        raise LineProblem(line, f"expected a JSON object, not {_kind(value)}")
    if rb"\u0000" in raw and _holds_nul(value):
        raise LineProblem(line, r"a text holds the NUL character (\u0000); remove it")
    if not value:
        raise LineProblem(line, f"the object is empty; expected {', '.join(SHAPES[:2])} or {SHAPES[2]}")
    if "messages" in value:
        return _chat(value, line)
    if "prompt" in value or "completion" in value:
        return _prompt_completion(value, line)
    return Columns(line, value)


def read_examples(path: Path) -> Iterator[Example]:
    """Read a checked file's examples one by one, with their line numbers.

    Raises:
        LineProblem: a line is not an example, so the file was not checked.
    """
    with path.open("rb") as lines:
        for number, raw in enumerate(lines, start=1):
            content = strip_line(raw, number)
            if content:
                yield parse_line(content, number)


def strip_line(raw: bytes, line: int) -> bytes:
    """Take off what is no part of the JSON: white space around it and, on the first line, a byte order mark."""
    return (raw.removeprefix(BYTE_ORDER_MARK) if line == 1 else raw).strip(BLANK)


def _prompt_completion(value: dict[str, Any], line: int) -> PromptCompletion:
    wanted = ("prompt", "completion")
    for key in wanted:
        if key not in value:
            others = [name for name in value if name not in wanted]
            near = difflib.get_close_matches(key, others, n=1)
            hint = f'; there is "{near[0]}", did you mean "{key}"?' if near else ""
            raise LineProblem(line, f'"{key}" is missing{hint}')
    _refuse_unknown(value, wanted, line, "")
    for key in wanted:
        if not isinstance(value[key], str):
            raise LineProblem(line, f'"{key}" must be a string, not {_kind(value[key])}')
    if not value["completion"].strip():
        raise LineProblem(line, '"completion" is empty, so there is nothing to learn from')
    return PromptCompletion(line, value["prompt"], value["completion"])


def _chat(value: dict[str, Any], line: int) -> Chat:
    _refuse_unknown(value, ("messages",), line, "")
    turns = value["messages"]
    if not isinstance(turns, list):
        raise LineProblem(line, f'"messages" must be a list, not {_kind(turns)}')
    if len(turns) > MAX_MESSAGES:
        raise LineProblem(line, f'"messages" has {len(turns):,} messages; at most {MAX_MESSAGES:,} are supported')
    messages = tuple(_message(turn, f"messages[{index}]", line) for index, turn in enumerate(turns))
    if not messages or messages[-1].role != "assistant":
        raise LineProblem(line, '"messages" must end with a message from "assistant", the answer to learn')
    if messages[0].role == "assistant":
        raise LineProblem(line, '"messages" must not begin with "assistant": there is no prompt to answer')
    return Chat(line, messages)


def _message(turn: Any, place: str, line: int) -> Message:
    if not isinstance(turn, dict):
        raise LineProblem(line, f"{place} must be an object, not {_kind(turn)}")
    role = turn.get("role")
    if role not in ROLES:
        raise LineProblem(line, f'{place}.role must be "system", "user" or "assistant", not {_shown(role)}')
    _refuse_unknown(turn, ("role", "content", "weight"), line, f"{place}: ")
    content = turn.get("content")
    if not isinstance(content, str):
        raise LineProblem(line, f"{place}.content must be a string, not {_kind(content)}")
    if role != "assistant":
        if "weight" in turn:
            raise LineProblem(line, f'{place}.weight: only messages from "assistant" have a weight')
        return Message(role, content)
    if not content.strip():
        raise LineProblem(line, f"{place}.content is empty, so there is nothing to learn from")
    weight = turn.get("weight", 1)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= 1:
        raise LineProblem(line, f"{place}.weight must be a number from 0 to 1, not {_shown(weight)}")
    return Message(role, content, float(weight))


def _refuse_unknown(value: dict[str, Any], known: tuple[str, ...], line: int, place: str) -> None:
    unknown = [key for key in value if key not in known]
    if unknown:
        names = ", ".join(_shown(key) for key in unknown[:5])
        allowed = " and ".join(f'"{key}"' for key in known)
        raise LineProblem(line, f"{place}{names} is not supported here; an object has {allowed} only")


def _json_reason(raw: bytes, error: orjson.JSONDecodeError) -> str:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as broken:
        return f"the line is not UTF-8: byte {broken.start + 1} is {raw[broken.start]:#04x}; save the file as UTF-8"
    return f"the line is not one JSON object: {error.msg} at character {error.pos + 1}"


def _holds_nul(value: Any) -> bool:
    """Look for NUL in every key and text, without recursion because a line may nest deeply."""
    pending = [value]
    while pending:
        match pending.pop():
            case str(text) if "\0" in text:
                return True
            case dict(items):
                pending += [*items.keys(), *items.values()]
            case list(items):
                pending += items
    return False


def _kind(value: Any) -> str:
    """Name a JSON value's type as JSON does."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _shown(value: Any) -> str:
    """Quote a value of the file in a message, cut to a readable length."""
    text = orjson.dumps(value).decode()
    return text if len(text) <= 60 else text[:57] + "..."
