"""Renders an adapter's training prompts again, and says where the model would be fed something else.

What is done about it is ``adapter_trust``'s matter.
"""

from collections.abc import Sequence

from core.errors import InvalidParameter
from core.serving.adapter_format import TrainedPrompt
from core.serving.prompts import render
from core.text.rendering import Renderer
from core.text.tokenizer import TextTokenizer

CHARS_BEFORE, CHARS_AFTER = 30, 50  # of each text around the first difference


def find_mismatch(prompts: Sequence[TrainedPrompt], renderer: Renderer, tokenizer: TextTokenizer) -> str | None:
    """Give the first difference between prompts as they were trained and as they are rendered now, as a diff.

    None when there is no difference.
    """
    for number, trained in enumerate(prompts, start=1):
        try:
            served = render(renderer, trained.source)
        except InvalidParameter as error:
            return f"its training prompt {number} cannot be rendered here: {error}"
        name = f"its training prompt {number} is not rendered here as it was trained"
        if served.text != trained.text:
            return f"{name}: {_text_difference(trained.text, served.text)}"
        if served.ids != trained.ids:
            return f"{name}: {_token_difference(trained.ids, served.ids, tokenizer)}"
    return None


def _text_difference(trained: str, served: str) -> str:
    at = _first_difference(trained, served)
    return f"the texts differ from character {at + 1} on\n- {_excerpt(trained, at)}\n+ {_excerpt(served, at)}"


def _excerpt(text: str, at: int) -> str:
    begin, end = max(at - CHARS_BEFORE, 0), at + CHARS_AFTER
    return f"{'…' if begin else ''}{text[begin:end]!r}{'…' if end < len(text) else ''}"


def _token_difference(trained: Sequence[int], served: Sequence[int], tokenizer: TextTokenizer) -> str:
    at = _first_difference(trained, served)
    return (
        f"the texts are equal, the tokens differ from token {at + 1} on\n"
        f"- {_token(trained, at, tokenizer)}\n+ {_token(served, at, tokenizer)}"
    )


def _token(ids: Sequence[int], at: int, tokenizer: TextTokenizer) -> str:
    return f"{ids[at]} {tokenizer.token_text(ids[at])!r}" if at < len(ids) else "no token"


def _first_difference(left: Sequence[object], right: Sequence[object]) -> int:
    shorter = min(len(left), len(right))
    return next((place for place in range(shorter) if left[place] != right[place]), shorter)
