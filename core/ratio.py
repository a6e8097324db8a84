"""A part of a whole that may be nothing: a mean, a share, a rate.

Of nothing there is none. It is not 0, which would be the best loss there is, nor NaN, which no JSON can hold.
Whoever shows it leaves its place empty, or writes a dash.
"""


def ratio(part: float, whole: float) -> float | None:
    """Give ``part / whole``; None where the whole is nothing."""
    return part / whole if whole else None
