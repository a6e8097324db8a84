"""The smallest difference that an experiment can find, before it starts: how sure its rows and seeds can make anyone.

How much rows and seeds scatter is not known yet, so it is said in units of that; where answers are right or wrong, also
as a share, for two models that disagree on as many rows as is said.
"""

import math
from typing import Final

from core.scoring.registry import METRICS
from core.values import Frozen

_DISAGREEING: Final = 0.1  # of the rows, where that has to be supposed


class Detectable(Frozen):
    """The smallest true differences that are found four times in five.

    Attributes:
        over_rows: in standard deviations of the rows' differences.
        over_seeds: in standard deviations of the seeds' differences; None with one seed.
        right_or_wrong: as a share of right answers, where one row in ten differs; None for other metrics.
    """

    rows: int
    seeds: int
    over_rows: float
    over_seeds: float | None
    right_or_wrong: float | None
    text: str


def smallest_detectable(metric: str, rows: int, seeds: int) -> Detectable:
    """Say what so many rows (of different prompts; at least two) and seeds can show on a metric."""
    over_rows = _in_deviations(rows)
    over_seeds = _in_deviations(seeds) if seeds > 1 else None
    share = over_rows * math.sqrt(_DISAGREEING) if METRICS[metric].kind == "binary" else None
    return Detectable(
        rows=rows,
        seeds=seeds,
        over_rows=over_rows,
        over_seeds=over_seeds,
        right_or_wrong=share,
        text=_text(metric, rows, seeds, over_rows, over_seeds, share),
    )


def _in_deviations(count: int) -> float:
    # with numpy, which the API's start need not wait for
    from core.scoring.statistics import student
    from core.scoring.statistics.bootstrap import LEVEL
    from core.scoring.statistics.comparison import POWER

    return student.detectable_shift(count - 1, 1 - LEVEL, POWER) / math.sqrt(count)


def _text(metric: str, rows: int, seeds: int, over_rows: float, over_seeds: float | None, share: float | None) -> str:
    from core.scoring.verdict import MIN_ROWS

    if rows < MIN_ROWS:
        return (
            f"{rows:,} rows with different prompts are too few for a verdict, which takes {MIN_ROWS}; the numbers will "
            "be shown."
        )
    text = (
        f"A true difference on {metric} shows four times in five from {over_rows:.2g} standard deviations of the "
        f"rows' differences on, with {rows:,} rows"
    )
    if share is not None:
        text += f" (a share of {share:.2g} where the two disagree on one row in ten)"
    if over_seeds is None:
        return f"{text}. One seed says nothing of how another training would go."
    return f"{text}, and from {over_seeds:.2g} of the seeds' on, with {seeds} seeds."
