"""Sums over the positions that a step or an evaluation scored, as ranks add them up and reports divide them."""

from dataclasses import dataclass

from core.ratio import ratio


@dataclass
class LossSums:
    """Sums over scored positions; whoever reports divides. All float64 on the CPU, so that order hardly matters.

    Losses are nats per token; a mean over no token is None.
    """

    weighted_nll: float = 0.0
    weight: float = 0.0
    completion_nll: float = 0.0
    completion_correct: int = 0
    completion_tokens: int = 0
    prompt_nll: float = 0.0  # of prompt tokens that have a weight
    prompt_tokens: int = 0

    def add(self, other: "LossSums") -> None:
        self.weighted_nll += other.weighted_nll
        self.weight += other.weight
        self.completion_nll += other.completion_nll
        self.completion_correct += other.completion_correct
        self.completion_tokens += other.completion_tokens
        self.prompt_nll += other.prompt_nll
        self.prompt_tokens += other.prompt_tokens

    @property
    def scored_tokens(self) -> int:
        """Tokens that have a weight."""
        return self.completion_tokens + self.prompt_tokens

    @property
    def loss(self) -> float | None:
        """The weighted objective."""
        return ratio(self.weighted_nll, self.weight)

    @property
    def completion_loss(self) -> float | None:
        return ratio(self.completion_nll, self.completion_tokens)

    @property
    def prompt_loss(self) -> float | None:
        """Of prompt tokens that have a weight."""
        return ratio(self.prompt_nll, self.prompt_tokens)

    @property
    def token_accuracy(self) -> float | None:
        return ratio(self.completion_correct, self.completion_tokens)
