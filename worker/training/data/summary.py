"""What a run trains on: counted once per example, and said in a sentence.

Which examples these are is ``worker.training.data.examples``'s.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from core.text.rendering import ANSWER, Reason, RenderedExample

LINES_NAMED = 20  # dropped lines that a sentence or an error names before it says "…"


@dataclass
class DataSummary:
    """What a run's training examples hold, counted once per example."""

    examples: int = 0
    completion_tokens: int = 0
    closing_tokens: int = 0
    prompt_tokens: int = 0
    untrained_answer_tokens: int = 0  # masked, or of a message with weight 0
    truncated_tokens: int = 0  # of prompts
    truncated_lines: list[int] = field(default_factory=list)
    moved_lines: list[int] = field(default_factory=list)  # a space at the prompt's end became the completion's
    held_out_examples: int = 0  # of the training file
    dropped_lines: list[int] = field(default_factory=list)  # over max_length
    untrained_lines: list[int] = field(default_factory=list)  # every weight is 0

    def add(self, rendered: RenderedExample) -> None:
        """Count an example that is trained on, as it was cut to fit."""
        self.examples += 1
        for segment in rendered.kept:
            if segment.reason not in ANSWER:
                self.prompt_tokens += len(segment.ids)
            elif segment.weight == 0:
                self.untrained_answer_tokens += len(segment.ids)
            elif segment.reason is Reason.END:
                self.closing_tokens += len(segment.ids)
            else:
                self.completion_tokens += len(segment.ids)
        if rendered.dropped_tokens:
            self.truncated_tokens += rendered.dropped_tokens
            self.truncated_lines.append(rendered.line)
        if rendered.moved:
            self.moved_lines.append(rendered.line)

    @property
    def left_out(self) -> tuple[str, ...]:
        """Say which examples are not trained on, and why; empty when all are."""
        return tuple(
            f"{_count_of(len(lines), 'example')} {reason} ({name_lines(lines)})"
            for lines, reason in (
                (self.dropped_lines, "dropped as over-length"),
                (self.untrained_lines, "left out because all weights are 0"),
            )
            if lines
        )

    def sentence(self, prompt_loss_weight: float) -> str:
        """Say what the adapter is trained on. The first token of each example, which is prompt, is never a target."""
        parts = [
            f"{_count_of(self.completion_tokens, 'completion token')} of {_count_of(self.examples, 'example')}, "
            f"{_count_of(self.closing_tokens, 'closing token')}",
        ]
        if prompt_loss_weight:
            predicted = _count_of(self.prompt_tokens - self.examples, "prompt token")
            parts.append(f"{predicted} seen, weight {prompt_loss_weight:g}")
            parts.append(f"{_count_of(self.examples, 'first token')}, which nothing predicts")
        else:
            parts.append(f"{_count_of(self.prompt_tokens, 'prompt token')} seen, weight 0")
        if self.untrained_answer_tokens:
            parts.append(f"{_count_of(self.untrained_answer_tokens, 'answer token')} seen, weight 0")
        if self.truncated_lines:
            cut, where = _count_of(self.truncated_tokens, "prompt token"), name_lines(self.truncated_lines)
            parts.append(f"{cut} cut off in {_count_of(len(self.truncated_lines), 'example')} ({where})")
        if self.held_out_examples:
            parts.append(f"{_count_of(self.held_out_examples, 'example')} held out to be scored")
        return "; ".join([*parts, *self.left_out])


def _count_of(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def name_lines(lines: Sequence[int]) -> str:
    """Name lines in a sentence, the first few if there are many."""
    named = ", ".join(map(str, lines[:LINES_NAMED]))
    return f"line{'s' * (len(lines) != 1)} {named}{', …' if len(lines) > LINES_NAMED else ''}"
