"""What can be wrong with one example that was rendered: its texts' ends, and characters and tokens inside them."""

import re
from collections.abc import Iterator
from typing import Final

from core.text.files.examples import Chat, Columns, Example, PromptCompletion
from core.text.lint.lost_characters import LostCharacters
from core.text.lint.repetitions import ComparedText
from core.text.rendering import ANSWER, MOVABLE, Reason, RenderedExample, Renderer

_NAMED: Final = 5  # characters of one example
_OWN_TEXT = frozenset({Reason.PROMPT, Reason.COMPLETION, Reason.MASKED_SPAN})


class ExampleChecks:
    """Looks at examples one by one; keeps nothing of them but their alphabet."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer
        tokenizer = renderer.tokenizer
        self._end_text = tokenizer.token_text(tokenizer.eos_id)
        # the longest first: one can begin like another
        texts = sorted(tokenizer.control_texts, key=len, reverse=True)
        self._lost = LostCharacters(tokenizer)
        self._special = re.compile("|".join(map(re.escape, texts)) or r"(?!)")

    def find(self, rendered: RenderedExample, text: ComparedText) -> Iterator[tuple[str, str]]:
        """Give the code of each problem, and a word on it for where it is the first of its kind."""
        example = rendered.source
        if rendered.moved:
            yield "space_moved", ""
        if isinstance(example, PromptCompletion) and example.prompt.endswith(tuple(MOVABLE)):
            yield "prompt_ends_in_space", ""
        if self._ends_in_end_token(example):
            yield "completion_ends_in_end_token", ""
        if not text.completion.strip():
            yield "blank_completion", ""
        own_texts = list(_own_texts(rendered))
        special = next(filter(None, map(self._special.search, own_texts)), None)
        if special is not None:
            yield "special_token_in_text", special[0]
        lost: set[str] = set().union(*map(self._lost.find, own_texts))
        if lost:
            yield "lost_characters", ", ".join(f"U+{ord(character):04X}" for character in sorted(lost)[:_NAMED])

    def _ends_in_end_token(self, example: Example) -> bool:
        if isinstance(example, PromptCompletion):
            return example.completion.endswith(self._end_text)
        if isinstance(example, Columns):
            may = any(isinstance(value, str) and self._end_text in value for value in example.values.values())
            return may and self._renderer.texts(example)[1].endswith(self._end_text)
        return False  # rendering refuses it: the chat template closes answers itself


def _own_texts(rendered: RenderedExample) -> Iterator[str]:
    """Give what the example itself says, without what the renderer and a chat template put around it."""
    example = rendered.source
    if isinstance(example, Chat):
        yield from (message.content for message in example.messages)
    else:
        yield from (segment.text for segment in rendered.segments if segment.reason in _OWN_TEXT)


def compared_text(rendered: RenderedExample) -> ComparedText:
    """Cut an example before its last answer, and leave out what closes that."""
    segments = rendered.segments
    end = max(index for index, segment in enumerate(segments) if segment.reason in ANSWER) + 1
    begin = end
    while begin and segments[begin - 1].reason in ANSWER:
        begin -= 1
    start = segments[begin].spans[0][0]
    answer = [segment for segment in segments[begin:end] if segment.reason is not Reason.END]
    return ComparedText.of(rendered.text[:start], rendered.text[start : answer[-1].spans[-1][1]] if answer else "")
