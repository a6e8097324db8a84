"""The result file of a run: one CSV row a step, under OpenAI's column names, ours behind them.

Holds no times, so that a resumed run's file is the undisturbed one's to the byte. What becomes of the file is
the worker's matter.
"""

import csv
from pathlib import Path
from typing import Final

from worker.trainer_process.messages import SCORE_PREFIX, Evaluated, StepDone

# As OpenAI's guide to fine-tuning names them; its accuracies are shares of completion tokens, its losses nats per one.
OPENAI_COLUMNS: Final = ("step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy")
OWN_COLUMNS: Final = (
    "loss",
    "prompt_loss",
    "learning_rate",
    "grad_norm",
    "trained_tokens",
    "seen_tokens",
    "exact_match",
    "stop_rate",
)
COLUMNS: Final = OPENAI_COLUMNS + OWN_COLUMNS

Row = dict[str, str]


class ResultRows:
    """The rows so far. A checkpoint holds them; a value that a step does not have is empty."""

    def __init__(self, rows: list[Row] | None = None) -> None:
        self._rows = rows or []

    @classmethod
    def read(cls, path: Path) -> "ResultRows":
        """Read what `write` wrote; a checkpoint of a version that wrote none gives no rows."""
        if not path.exists():
            return cls()
        with path.open(encoding="utf-8", newline="") as file:
            return cls(list(csv.DictReader(file)))

    def add_step(self, step: StepDone) -> None:
        """Begin a step's row."""
        self._rows.append(
            _row(
                step=step.step,
                train_loss=step.completion_loss,
                train_accuracy=step.token_accuracy,
                loss=step.loss,
                prompt_loss=step.prompt_loss,
                learning_rate=step.learning_rate,
                grad_norm=step.grad_norm,
                trained_tokens=step.trained_tokens,
                seen_tokens=step.seen_tokens,
            )
        )

    def add_evaluation(self, evaluation: Evaluated) -> None:
        """Complete the row of the evaluated step, which is the last one; step 0 has a row only by this."""
        if not self._rows:
            self._rows.append(_row(step=evaluation.step))
        self._rows[-1] |= _row(
            step=evaluation.step,
            valid_loss=evaluation.loss,
            valid_mean_token_accuracy=evaluation.token_accuracy,
            exact_match=evaluation.exact_match,
            stop_rate=evaluation.stop_rate,
            **evaluation.named_scores,
        )

    def write(self, path: Path) -> None:
        """Write all rows; floats so that they are read back as they are. Scores have the last columns."""
        scores = dict.fromkeys(name for row in self._rows for name in row if name.startswith(SCORE_PREFIX))
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, (*COLUMNS, *scores), restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(self._rows)


def _row(**values: float | None) -> Row:
    return {name: str(value) for name, value in values.items() if value is not None}
