"""`loramill compare`: one prompt, several models: their answers side by side, and how likely each holds a reference."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from app.cli.client import Client

_ANSWER: Final = frozenset({"completion", "end"})  # reasons of a reference's tokens
_COLUMN_CHARS: Final = 30  # of the narrowest column that can be read


@dataclass(frozen=True)
class ComparedModel:
    """What one model makes of the prompt. The last three are of the reference; None: there is none."""

    model: str
    answer: str
    probability: float | None
    nats: float | None
    tokens: int | None


def run_comparison(
    client: Client, models: Sequence[str], prompt: str, reference: str | None, *, max_tokens: int, as_json: bool
) -> None:
    """Ask every model, greedily, and print what they say.

    Raises:
        StartRefused: the API refuses a request, or does not answer.
    """
    compared = [_ask(client, model, prompt, reference, max_tokens) for model in models]
    if as_json:
        body = {"prompt": prompt, "reference": reference, "models": [asdict(each) for each in compared]}
        print(json.dumps(body, ensure_ascii=False, indent=2))
        return
    _show(Console(), compared)


def _ask(client: Client, model: str, prompt: str, reference: str | None, max_tokens: int) -> ComparedModel:
    if reference is None:
        return ComparedModel(model, client.complete(model, [prompt], max_tokens)[0], None, None, None)
    # the ids that training has for this pair: prompt and reference are tokenised apart, and the reference is closed
    base_model = client.base_model_of(model)
    tokens = client.tokens_of(base_model, prompt, reference)
    begin = next(place for place, token in enumerate(tokens) if token["reason"] in _ANSWER)
    ids = [int(token["id"]) for token in tokens]
    answer = client.complete_ids(model, ids[:begin], max_tokens)
    logprobs = client.logprobs_of(model, ids)[begin:]
    total = math.fsum(logprobs)
    return ComparedModel(model, answer, math.exp(total), -total, len(logprobs))


def _show(console: Console, compared: Sequence[ComparedModel]) -> None:
    if console.is_terminal and console.width >= _COLUMN_CHARS * len(compared):
        table = Table(*(escape(each.model) for each in compared), expand=True)
        table.add_row(*(Text(each.answer.strip()) for each in compared))
        if compared[0].probability is not None:
            table.add_section()
            table.add_row(*(Text(_likelihood(each)) for each in compared))
        console.print(table)
        return
    for each in compared:
        lines = [each.model, f"  {json.dumps(each.answer.strip(), ensure_ascii=False)}"]
        lines += [f"  {_likelihood(each)}"] if each.probability is not None else []
        print("\n".join(lines))


def _likelihood(compared: ComparedModel) -> str:
    assert compared.probability is not None
    assert compared.nats is not None
    assert compared.tokens is not None
    return (
        f"reference: probability {compared.probability:.3g}, {compared.nats / compared.tokens:.3f} nats for each of "
        f"{compared.tokens} tokens"
    )
