"""The tokens of an answer as text-generation-inference's clients and LoRAX's read and print them."""

from collections.abc import Sequence

from app.generation.tgi.schemas import AlternativeOut, Parameters, PrefillTokenOut, TokenOut, TopTokenOut
from core.serving.generation import Delta, PromptToken, Token


def tokens_of(delta: Delta, parameters: Parameters) -> list[TokenOut]:
    """Give a delta's tokens, with the delta's text on the last one that clients print.

    Clients print the texts of ordinary tokens one by one. A token's own text can be half a character,
    or the beginning of a stop sequence, which the delta's text holds back until it is certain. Text
    that becomes certain only with the end token makes that one ordinary, since it would be lost else.
    """
    ordinary = [place for place, token in enumerate(delta.tokens) if not token.special]
    bearer = ordinary[-1] if ordinary else len(delta.tokens) - 1 if delta.text else None
    return [
        _token_out(token, delta.text, parameters, special=False)
        if place == bearer
        else _token_out(token, token.text if token.special else "", parameters, special=token.special)
        for place, token in enumerate(delta.tokens)
    ]


def top_of(token: Token, parameters: Parameters) -> list[TopTokenOut] | None:
    """Give the likeliest tokens in a token's place; None: they were not asked for."""
    if not parameters.top_n_tokens:
        return None
    return [
        TopTokenOut(id=other.id, text=other.text, logprob=other.logprob, special=other.special)
        for other in token.top[: parameters.top_n_tokens]
    ]


def prefill_of(prompt: Sequence[PromptToken]) -> list[PrefillTokenOut]:
    """Give a prompt's tokens; none where they were not asked for."""
    return [PrefillTokenOut(id=token.id, text=token.text, logprob=token.logprob) for token in prompt]


def _token_out(token: Token, text: str, parameters: Parameters, *, special: bool) -> TokenOut:
    wanted = parameters.return_k_alternatives
    alternatives = [
        AlternativeOut(id=other.id, text=other.text, logprob=other.logprob) for other in token.top[: wanted or 0]
    ]
    return TokenOut(
        id=token.id,
        text=text,
        logprob=token.logprob,
        special=special,
        skipped=False,
        alternative_tokens=alternatives if wanted else None,
    )
