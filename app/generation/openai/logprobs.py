"""How likely tokens were, in OpenAI's two shapes: completions' lists side by side, and chat's list of objects."""

from collections.abc import Sequence
from typing import Final

from app.generation.openai.chat_schemas import ChatLogprobsOut, TokenLogprobOut, TopLogprobOut
from app.generation.openai.completions_schemas import LogprobsOut
from core.serving.generation import Alternative, PromptToken, Token
from core.text.tokenizer import REPLACEMENT

# How far a token's text may stand behind the end of the one before: between them can lie characters whose tokens,
# parts of characters, have no text of their own.
_SLACK_CHARS: Final = 8


class Offsets:
    """Finds where in an answer's text its tokens stand, while the text grows."""

    def __init__(self) -> None:
        self.text = ""
        self._end = 0

    def place(self, token: Token | PromptToken) -> int:
        """Give the offset of the next token; if the text has not come to it yet, where it will stand."""
        found = self.text.find(token.text, self._end, self._end + len(token.text) + _SLACK_CHARS)
        if found >= 0:
            self._end = found + len(token.text)
            return found
        start = self._end
        if not token.special and REPLACEMENT not in token.text:
            self._end += len(token.text)
        return start


def of_completion(tokens: Sequence[Token | PromptToken], offsets: Offsets) -> LogprobsOut:
    """Give completions' lists; a token's top always has the token itself, even where others are likelier."""
    return LogprobsOut(
        tokens=[token.text for token in tokens],
        token_logprobs=[token.logprob for token in tokens],
        top_logprobs=[_top_of(token) for token in tokens],
        text_offset=[offsets.place(token) for token in tokens],
    )


def of_chat(tokens: Sequence[Token]) -> ChatLogprobsOut:
    """Give chat's list: of the tokens that are the message's text, so without the one that closes it."""
    return ChatLogprobsOut(
        content=[
            TokenLogprobOut(**_chat_token(token).model_dump(), top_logprobs=[_chat_token(other) for other in token.top])
            for token in tokens
            if not token.special
        ],
        refusal=None,
    )


def _top_of(token: Token | PromptToken) -> dict[str, float] | None:
    if token.logprob is None:
        return None
    top: dict[str, float] = {}
    for text, logprob in (*((other.text, other.logprob) for other in token.top), (token.text, token.logprob)):
        top.setdefault(text, logprob)  # parts of characters look alike, and the likeliest stands for all
    return top


def _chat_token(token: Token | Alternative) -> TopLogprobOut:
    is_part = REPLACEMENT in token.text
    return TopLogprobOut(token=token.text, bytes=None if is_part else list(token.text.encode()), logprob=token.logprob)
