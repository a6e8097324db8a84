"""Training examples as users upload them: which shapes there are, and what each may hold.

Knows no tokenizer: whether an example fits a base model is decided when it is rendered. How an example
is written in a file is ``core.text.files.jsonl``'s.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson

ExampleFormat = Literal["prompt_completion", "messages", "columns"]

ROLES = ("system", "user", "assistant")
MAX_MESSAGES = 1024  # rendering takes time that grows with their square
MAX_MASK_SPANS = 1024  # of one answer
MAX_COLUMNS = 1024  # their names are kept with the file, and shown
MAX_DEPTH = 64  # of lists and objects in each other, because some of what reads them recurses
SHAPES = ('"prompt" and "completion"', '"messages"', "columns for a prompt format")


class LineProblem(Exception):
    """One line of a file is not an example; ``reason`` is a sentence for the person who wrote the file."""

    def __init__(self, line: int, reason: str, code: str = "malformed") -> None:
        super().__init__(line, reason, code)

    @property
    def line(self) -> int:
        return int(self.args[0])

    @property
    def reason(self) -> str:
        return str(self.args[1])

    @property
    def code(self) -> str:
        """What kind of problem it is, for programs: stable, in snake_case."""
        return str(self.args[2])

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason}"


MaskSpan = tuple[int, int]  # characters of an answer that are not trained on, the end not included


@dataclass(frozen=True, slots=True)
class PromptCompletion:
    """A prompt and the completion to learn. ``line`` counts from 1, as in every example."""

    line: int
    prompt: str
    completion: str
    mask_spans: tuple[MaskSpan, ...] = ()


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation. ``weight`` scales the loss of an assistant's turn; 0 leaves it untrained."""

    role: str
    content: str
    weight: float = 1.0
    mask_spans: tuple[MaskSpan, ...] = ()


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


def example_of(value: dict[str, Any], line: int) -> Example:
    """Read one example from its keys and values, wherever they were written.

    Raises:
        LineProblem: it has none of the known shapes.
    """
    if not value:
        raise LineProblem(line, f"the object is empty; expected {', '.join(SHAPES[:2])} or {SHAPES[2]}")
    if len(value) > MAX_COLUMNS:
        raise LineProblem(line, f"there are {len(value):,} columns; at most {MAX_COLUMNS:,} are supported")
    if "messages" in value:
        return _chat(value, line)
    if "prompt" in value or "completion" in value:
        return _prompt_completion(value, line)
    return Columns(line, value)


def refuse_nul(value: Any, line: int) -> None:
    """Look for NUL in every key and text, without recursion because a line may nest deeply.

    Raises:
        LineProblem: there is one.
    """
    pending = [value]
    while pending:
        match pending.pop():
            case str(text) if "\0" in text:
                raise LineProblem(line, r"a text holds the NUL character (\u0000); remove it", "nul")
            case dict(items):
                pending += [*items.keys(), *items.values()]
            case list(items):
                pending += items


def refuse_deep(value: Any, line: int) -> None:
    """Look for lists and objects nested more than `MAX_DEPTH` deep, without recursion.

    Raises:
        LineProblem: there are some.
    """
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [
            item
            for container in level
            for item in (container.values() if isinstance(container, dict) else container)
            if isinstance(item, dict | list)
        ]
        if not level:
            return
    raise LineProblem(line, f"lists and objects are nested more than {MAX_DEPTH} deep", "nested_too_deeply")


def _prompt_completion(value: dict[str, Any], line: int) -> PromptCompletion:
    wanted = ("prompt", "completion")
    for key in wanted:
        if key not in value:
            others = [name for name in value if name not in wanted]
            near = difflib.get_close_matches(key, others, n=1)
            hint = f'; there is "{near[0]}", did you mean "{key}"?' if near else ""
            raise LineProblem(line, f'"{key}" is missing{hint}')
    _refuse_unknown(value, (*wanted, "mask_spans"), line, "")
    for key in wanted:
        if not isinstance(value[key], str):
            raise LineProblem(line, f'"{key}" must be a string, not {kind_of(value[key])}')
    if not value["completion"].strip():
        raise LineProblem(line, '"completion" is empty, so there is nothing to learn from', "empty_completion")
    spans = _mask_spans(value, value["completion"], "", line)
    return PromptCompletion(line, value["prompt"], value["completion"], spans)


def _chat(value: dict[str, Any], line: int) -> Chat:
    _refuse_unknown(value, ("messages",), line, "")
    turns = value["messages"]
    if not isinstance(turns, list):
        raise LineProblem(line, f'"messages" must be a list, not {kind_of(turns)}')
    if len(turns) > MAX_MESSAGES:
        raise LineProblem(line, f'"messages" has {len(turns):,} messages; at most {MAX_MESSAGES:,} are supported')
    messages = tuple(_message(turn, f"messages[{index}]", line) for index, turn in enumerate(turns))
    if not messages or messages[-1].role != "assistant":
        reason = '"messages" must end with a message from "assistant", the answer to learn'
        raise LineProblem(line, reason, "role_order")
    if messages[0].role == "assistant":
        reason = '"messages" must not begin with "assistant": there is no prompt to answer'
        raise LineProblem(line, reason, "role_order")
    return Chat(line, messages)


def _message(turn: Any, place: str, line: int) -> Message:
    if not isinstance(turn, dict):
        raise LineProblem(line, f"{place} must be an object, not {kind_of(turn)}")
    role = turn.get("role")
    if role not in ROLES:
        raise LineProblem(line, f'{place}.role must be "system", "user" or "assistant", not {shown(role)}')
    _refuse_unknown(turn, ("role", "content", "weight", "mask_spans"), line, f"{place}: ")
    content = turn.get("content")
    if not isinstance(content, str):
        raise LineProblem(line, f"{place}.content must be a string, not {kind_of(content)}")
    if role != "assistant":
        for key in ("weight", "mask_spans"):
            if key in turn:
                raise LineProblem(line, f'{place}.{key}: only messages from "assistant" have one')
        return Message(role, content)
    if not content.strip():
        reason = f"{place}.content is empty, so there is nothing to learn from"
        raise LineProblem(line, reason, "empty_completion")
    weight = turn.get("weight", 1)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= 1:
        raise LineProblem(line, f"{place}.weight must be a number from 0 to 1, not {shown(weight)}", "weight")
    return Message(role, content, float(weight), _mask_spans(turn, content, f"{place}.", line))


def _mask_spans(value: dict[str, Any], answer: str, place: str, line: int) -> tuple[MaskSpan, ...]:
    """Read the pairs [begin, end) of an answer's characters; null means none."""
    spans = value.get("mask_spans")
    if spans is None:
        return ()
    if not isinstance(spans, list) or len(spans) > MAX_MASK_SPANS:
        raise LineProblem(line, f"{place}mask_spans must be a list of at most {MAX_MASK_SPANS:,} pairs", "mask_span")
    for index, span in enumerate(spans):
        is_pair = isinstance(span, list) and len(span) == 2 and all(type(end) is int for end in span)
        if not is_pair or not 0 <= span[0] < span[1] <= len(answer):
            raise LineProblem(
                line,
                f"{place}mask_spans[{index}] must be [begin, end], characters of the answer with "
                f"0 <= begin < end <= {len(answer)}, not {shown(span)}",
                "mask_span",
            )
    return tuple((begin, end) for begin, end in spans)


def _refuse_unknown(value: dict[str, Any], known: tuple[str, ...], line: int, place: str) -> None:
    unknown = [key for key in value if key not in known]
    if unknown:
        names = ", ".join(shown(key) for key in unknown[:5])
        allowed = " and ".join(f'"{key}"' for key in known)
        raise LineProblem(line, f"{place}{names} is not supported here; an object has {allowed} only")


def kind_of(value: Any) -> str:
    """Name a JSON value's type as JSON does."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def shown(value: Any) -> str:
    """Quote a value of a file in a message, cut to a readable length."""
    text = orjson.dumps(value).decode()
    return text if len(text) <= 60 else text[:57] + "..."
