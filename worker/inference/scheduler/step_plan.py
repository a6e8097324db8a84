"""Plans one step of continuous batching: a token of each decoding row, draft tokens behind it, and prefill chunks.

Prefill is chunked: while rows decode, a step computes only so many prompt tokens that the rows' next tokens do not
have to wait long. Plans only; what follows from the logits is ``batch``'s matter.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from worker.inference.kv_cache.slots import KvSlot
from worker.inference.model.contract import StepRow
from worker.inference.sampling.sampler import Choice
from worker.inference.scheduler.request import Request
from worker.inference.scheduler.speculation import PromptLookup
from worker.inference.scheduler.step_budget import StepBudget

PREFILL_ONLY_TOKENS: Final = 512  # of prompts, in a step in which no row decodes


class RunningRow:
    """A request that runs, and its KV slot, which holds its ids up to the slot's length."""

    def __init__(self, request: Request, slot: KvSlot) -> None:
        self.request = request
        self.slot = slot
        self._lookup: PromptLookup | None = None  # made for the first draft

    @property
    def is_prefill(self) -> bool:
        return self.slot.length < self.request.prompt_tokens

    @property
    def can_speculate(self) -> bool:
        return self.request.sampler.is_plain

    def propose(self, limit: int) -> list[int]:
        """Give draft tokens that may follow, no more than ``limit`` and than the completion has room for."""
        if self._lookup is None:
            self._lookup = PromptLookup(self.request.ids)
        return self._lookup.propose(min(limit, self.request.tokens_left - 1))

    def append(self, choices: Sequence[Choice], draft_tokens: Sequence[int]) -> None:
        """Append the first choice, and each further one as long as the draft token before it was accepted."""
        before = self.request.completion_tokens
        for choice, draft_token in zip(choices, (*draft_tokens, None), strict=True):
            self.request.append(choice)
            if self.request.is_complete or choice.token_id != draft_token:
                break
        appended = self.request.completion_tokens - before
        if self._lookup is not None:
            self._lookup.learn(len(draft_tokens), appended - 1)
            self._lookup.extend(self.request.ids[-appended:])
        self.slot.truncate(len(self.request.ids) - 1)


@dataclass(frozen=True)
class ScheduledRow:
    """One row's part of a step: a prefill chunk, or its last token and draft tokens behind that.

    Attributes:
        wanted: see ``contract.StepRow.wanted``.
        scored_ids: the prompt's tokens whose logprobs are asked for, by the first of the wanted logits.
        samples_next: whether the logits behind those of ``scored_ids`` are for the completion's next tokens.
        ends_request: whether nothing is to be generated behind it.
        draft_tokens: the last of ``tokens``, where they are drafts.
    """

    row: RunningRow
    tokens: Sequence[int]
    wanted: int
    is_prefill: bool
    scored_ids: Sequence[int] = ()
    samples_next: bool = True
    ends_request: bool = False
    draft_tokens: Sequence[int] = ()

    def as_row(self) -> StepRow:
        return StepRow(self.row.slot, self.tokens, self.row.request.adapter, self.wanted)


class StepPlanner:
    """Divides steps among rows. ``prefill_tokens`` of prompts while rows decode; None leaves it to the budget."""

    def __init__(self, budget: StepBudget, *, prefill_tokens: int | None, speculates: bool) -> None:
        self.budget = budget
        self._prefill_tokens = prefill_tokens
        self._speculates = speculates

    def plan(self, rows: Sequence[RunningRow]) -> list[ScheduledRow]:
        """Plan a step of these rows, of which those that came first prefill first."""
        decoding = [row for row in rows if not row.is_prefill]
        prefill_tokens = self._prefill_tokens or self.budget.prefill_tokens
        chunks = _prefill([row for row in rows if row.is_prefill], prefill_tokens if decoding else PREFILL_ONLY_TOKENS)
        spare = self.budget.tokens_with_drafts - len(decoding) - sum(len(chunk.tokens) for chunk in chunks)
        return [*_decode(decoding, spare if self._speculates else 0), *chunks]


def _decode(rows: Sequence[RunningRow], spare: int) -> list[ScheduledRow]:
    """Schedule each row's last token, and draft tokens of those that can speculate in the spare tokens."""
    speculating = sum(row.can_speculate for row in rows)
    scheduled = []
    for row in rows:
        draft: list[int] = []
        if row.can_speculate:
            if spare >= speculating:
                draft = row.propose(spare // speculating)
            speculating -= 1
            spare -= len(draft)
        tokens = [row.request.ids[-1], *draft]
        scheduled.append(ScheduledRow(row, tokens, 1 + len(draft), is_prefill=False, draft_tokens=draft))
    return scheduled


def _prefill(rows: Sequence[RunningRow], budget: int) -> list[ScheduledRow]:
    """Schedule the next chunk of each row's prompt until the budget is used up."""
    scheduled = []
    for row in rows:
        if not budget:
            break
        scheduled.append(_prefill_chunk(row, budget))
        budget -= len(scheduled[-1].tokens)
    return scheduled


def _prefill_chunk(row: RunningRow, limit: int) -> ScheduledRow:
    prompt, begin = row.request.prompt_ids, row.slot.length
    tokens = prompt[begin : begin + limit]
    end = begin + len(tokens)
    is_last = end == len(prompt)
    if not row.request.sampling.prompt_logprobs:
        return ScheduledRow(row, tokens, int(is_last), is_prefill=True, samples_next=is_last)
    is_only_scored = not row.request.sampling.max_tokens
    return ScheduledRow(
        row,
        tokens,
        len(tokens),
        is_prefill=True,
        scored_ids=prompt[begin + 1 : end + 1],
        samples_next=is_last and not is_only_scored,
        ends_request=is_last and is_only_scored,
    )
