"""Speculative decoding: proposes a row's next tokens from its own text, for the model to verify several in one step.

Prompt lookup (Saxena 2023, github.com/apoorvumang/prompt-lookup-decoding): where the last tokens stood before, what
followed them then may follow again. Knows nothing of models; which draft tokens were accepted is told to it.
"""

from collections.abc import Sequence
from typing import Final

NGRAMS: Final = (3, 2)  # the longer one is the surer sign
FIRST_DRAFT: Final = 4
LONGEST_DRAFT: Final = 12
FIRST_PAUSE: Final = 8  # steps
LONGEST_PAUSE: Final = 256


class PromptLookup:
    """One row's draft tokens. How many are proposed follows from how many were accepted.

    A draft of which nothing is accepted halves the next; at none, drafting pauses, each time for twice as many steps,
    so that a text that does not repeat itself is not slowed down.
    """

    def __init__(self, ids: Sequence[int]) -> None:
        self._ids: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}  # where the text went on the last time after these tokens
        self._length = FIRST_DRAFT
        self._pause = FIRST_PAUSE
        self._paused_steps = 0
        self.extend(ids)

    def extend(self, ids: Sequence[int]) -> None:
        """Add tokens that now stand in the text."""
        for token_id in ids:
            place = len(self._ids)
            for size in NGRAMS:
                if place >= size:
                    self._after[tuple(self._ids[place - size :])] = place
            self._ids.append(token_id)

    def propose(self, limit: int) -> list[int]:
        """Draft what comes next, at most ``limit`` tokens; nothing where there is no sign of it."""
        if self._paused_steps:
            self._paused_steps -= 1
            return []
        place = self._find()
        if place is None:
            return []
        draft: list[int] = []
        for number in range(place, place + min(self._length, limit)):
            # a text that repeats itself up to its end goes on so
            draft.append(self._ids[number] if number < len(self._ids) else draft[number - len(self._ids)])
        return draft

    def learn(self, proposed: int, accepted: int) -> None:
        """Tell how many of the proposed draft tokens the model accepted."""
        if not proposed:
            return
        if accepted == proposed:
            self._length = min(max(self._length, 2 * proposed), LONGEST_DRAFT)
            self._pause = FIRST_PAUSE
        elif accepted:
            self._length = accepted + 1
        elif self._length > 1:
            self._length //= 2
        else:
            self._paused_steps = self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def _find(self) -> int | None:
        for size in NGRAMS:
            place = self._after.get(tuple(self._ids[-size:])) if len(self._ids) >= size else None
            if place is not None:
                return place
        return None
