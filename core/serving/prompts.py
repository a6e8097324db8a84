"""Renders a prompt as requests ask it and manifests keep it, whichever kind it is.

Trainer and engine both come here. What the prompt becomes is ``core.text.rendering``'s.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from core.errors import InvalidParameter, PromptTooLong
from core.serving.generation import Conversation, PromptSource, Variables
from core.text.files.examples import Message
from core.text.rendering import RenderedPrompt, Renderer
from core.text.tokenizer import STATED_TOKEN_BYTES, TextTooLarge, TooManyTokens


def render(renderer: Renderer, prompt: PromptSource) -> RenderedPrompt:
    """Give what to feed for a prompt.

    Raises:
        InvalidParameter: ``variables`` or ``messages`` cannot be rendered.
    """
    match prompt:
        case Variables():
            return renderer.prompt(prompt.variables)
        case Conversation():
            return renderer.prompt([Message(turn.role, turn.content) for turn in prompt.messages])
        case _:
            return renderer.prompt(prompt)


def render_to_fit(renderer: Renderer, prompt: PromptSource, *, max_tokens: int, context_tokens: int) -> RenderedPrompt:
    """Give what to feed for a prompt that an answer is to follow, and tokenise none that cannot fit.

    Raises:
        InvalidParameter: as `render` and `refusing_long`.
        PromptTooLong: prompt and answer exceed the context.
    """
    with refusing_long(max_tokens=max_tokens, context_tokens=context_tokens):
        rendered = render(renderer.limited(context_tokens), prompt)
    if len(rendered.ids) + max_tokens > context_tokens:
        raise PromptTooLong(len(rendered.ids), max_tokens, context_tokens)
    return rendered


@contextmanager
def refusing_long(*, max_tokens: int, context_tokens: int) -> Iterator[None]:
    """Tell a client what a tokenizer that is limited to a context refuses.

    Raises:
        PromptTooLong: the text has more tokens than the context, whatever ``max_tokens`` is.
        InvalidParameter: nothing is known of its tokens but its bytes, and those are too many.
    """
    try:
        yield
    except TooManyTokens as too_many:
        raise PromptTooLong(too_many.at_least, max_tokens, context_tokens, True) from too_many
    except TextTooLarge as too_large:
        reason = (
            f"has {too_large.text_bytes:,} bytes, and this model takes at most {too_large.limit_bytes:,}, "
            f"{STATED_TOKEN_BYTES} for each token of its context; shorten it"
        )
        raise InvalidParameter("prompt", reason) from too_large


def chars_of(prompt: PromptSource) -> int:
    """Give about how many characters a prompt has; what a template adds, or repeats, is not known yet."""
    match prompt:
        case Variables():
            return _chars_in(prompt.variables)
        case Conversation():
            return sum(len(turn.content) for turn in prompt.messages)
        case _:
            return len(prompt)


def _chars_in(value: object) -> int:
    """Count the characters of all texts in a value. Its depth is bounded where it came from."""
    match value:
        case str():
            return len(value)
        case dict():
            return sum(map(_chars_in, value.values()))
        case list():
            return sum(map(_chars_in, value))
    return 0
