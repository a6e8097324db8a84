"""Which tokens a step feeds: every row that is answered, guesses behind its last token, and parts of prompts.

Plans only; what follows from the logits is ``batch``'s matter.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from worker.inference.kv_cache.slots import Slot
from worker.inference.model.contract import Row
from worker.inference.sampling.sampler import Choice
from worker.inference.scheduler.request import Answer
from worker.inference.scheduler.speculation import PromptLookup
from worker.inference.scheduler.step_budget import Pace

ALONE_TOKENS: Final = 512  # of prompts, in a step in which nobody waits for the next token of an answer


class RunningRow:
    """A request that runs, and its slot, which holds its ids up to the slot's length."""

    def __init__(self, answer: Answer, slot: Slot) -> None:
        self.answer = answer
        self.slot = slot
        self._lookup: PromptLookup | None = None  # made for the first guess

    @property
    def reads_prompt(self) -> bool:
        return self.slot.length < self.answer.prompt_tokens

    @property
    def can_guess(self) -> bool:
        return self.answer.sampler.is_plain

    def guess(self, limit: int) -> list[int]:
        """Guess tokens that may follow, no more than ``limit`` and than the answer can take."""
        if self._lookup is None:
            self._lookup = PromptLookup(self.answer.ids)
        return self._lookup.guess(min(limit, self.answer.tokens_left - 1))

    def take(self, choices: Sequence[Choice], guess: Sequence[int]) -> None:
        """Give the answer the first choice, and each further one as long as the guess before it was right."""
        before = self.answer.completion_tokens
        for choice, guessed in zip(choices, (*guess, None), strict=True):
            self.answer.take(choice)
            if self.answer.is_complete or choice.token_id != guessed:
                break
        taken = self.answer.completion_tokens - before
        if self._lookup is not None:
            self._lookup.learn(len(guess), taken - 1)
            self._lookup.extend(self.answer.ids[-taken:])
        self.slot.truncate(len(self.answer.ids) - 1)


@dataclass(frozen=True)
class Feed:
    """One row's part of a step.

    Attributes:
        wanted: see ``forward.Row.wanted``.
        scores: the prompt's tokens whose likelihood is told, by the first of the wanted logits.
        chooses: whether the logits behind ``scores`` are for the answer's next tokens.
        guess: the last of the fed tokens, where they are a guess.
    """

    row: RunningRow
    tokens: Sequence[int]
    wanted: int
    reads_prompt: bool
    scores: Sequence[int] = ()
    chooses: bool = True
    guess: Sequence[int] = field(default=())

    def as_row(self) -> Row:
        return Row(self.row.slot, self.tokens, self.row.answer.adapter, self.wanted)


class Feeding:
    """How much a step feeds. ``beside_tokens`` of prompts while rows are answered; None leaves it to the pace."""

    def __init__(self, pace: Pace, *, beside_tokens: int | None, speculates: bool) -> None:
        self.pace = pace
        self._beside_tokens = beside_tokens
        self._speculates = speculates

    def plan(self, rows: Sequence[RunningRow]) -> list[Feed]:
        """Divide a step among rows, of which those that came first read their prompts first."""
        answered = [row for row in rows if not row.reads_prompt]
        beside = self._beside_tokens or self.pace.beside_tokens
        prompts = self._read_prompts([row for row in rows if row.reads_prompt], beside if answered else ALONE_TOKENS)
        spare = self.pace.cheap_tokens - len(answered) - sum(len(feed.tokens) for feed in prompts)
        return [*self._go_on(answered, spare if self._speculates else 0), *prompts]

    def _go_on(self, rows: Sequence[RunningRow], spare: int) -> list[Feed]:
        """Feed each row's last token, and guesses to those that can make some of the spare tokens."""
        guessing = sum(row.can_guess for row in rows)
        feeds = []
        for row in rows:
            guess: list[int] = []
            if row.can_guess:
                if spare >= guessing:
                    guess = row.guess(spare // guessing)
                guessing -= 1
                spare -= len(guess)
            feeds.append(Feed(row, [row.answer.ids[-1], *guess], 1 + len(guess), reads_prompt=False, guess=guess))
        return feeds

    def _read_prompts(self, rows: Sequence[RunningRow], budget: int) -> list[Feed]:
        feeds = []
        for row in rows:
            if not budget:
                break
            feeds.append(_part_of_prompt(row, budget))
            budget -= len(feeds[-1].tokens)
        return feeds


def _part_of_prompt(row: RunningRow, limit: int) -> Feed:
    prompt, begin = row.answer.prompt_ids, row.slot.length
    tokens = prompt[begin : begin + limit]
    end = begin + len(tokens)
    is_last = end == len(prompt)
    if not row.answer.sampling.prompt_logprobs:
        return Feed(row, tokens, int(is_last), reads_prompt=True, chooses=is_last)
    scores = prompt[begin + 1 : end + 1]
    return Feed(row, tokens, len(tokens), reads_prompt=True, scores=scores, chooses=is_last)
