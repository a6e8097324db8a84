"""A report's differences as a picture: each arm against the first, with what rows and seeds leave open.

SVG of our own drawing, whole by itself: no script, no style sheet, no font and no address of anything outside. What
colour tells, thickness and words tell too.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final, Literal

from core.experiments.report import ComparedArms, MetricReport
from core.scoring.statistics.comparison import PairedComparison
from core.scoring.verdict import WORDS, Word

Theme = Literal["light", "dark"]

_WIDTH: Final = 760
_LEFT, _RIGHT = 190, 560  # of the axis
_TOP, _ROW, _BOTTOM = 64, 40, 56
_NAME_CHARS: Final = 26
_TICKS: Final = 5
_MARGIN_SHARE: Final = 0.06  # of the span, kept free at both ends


@dataclass(frozen=True)
class _Colours:
    paper: str
    ink: str
    muted: str
    rows: str
    seeds: str
    band: str


_COLOURS: Final[dict[Theme, _Colours]] = {
    "light": _Colours("#ffffff", "#1d1c1a", "#6b675f", "#0f6e66", "#b3470e", "#eeece6"),
    "dark": _Colours("#211f1d", "#f0eee8", "#a5a097", "#63d2c4", "#f2a366", "#33302c"),
}


def forest_plot(compared: ComparedArms, metric: str, theme: Theme) -> str:
    """Draw one metric's differences.

    Raises:
        ValueError: the report has no such metric.
    """
    found = next((one for one in compared.metrics if one.metric == metric), None)
    if found is None:
        raise ValueError(f"there is no {metric} in this report")
    drawn = [one for one in found.comparisons if one.difference is not None]
    colours = _COLOURS[theme]
    height = _TOP + _ROW * max(1, len(drawn)) + _BOTTOM
    axis = _Axis.over(drawn)
    verdicts = {one.comparison.ours: one.word for one in compared.verdicts} if found.decides else {}
    title = _title(found)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}" '
        f'role="img" font-family="system-ui, sans-serif" font-size="13">',
        f"<title>{escape(title)}</title>",
        f"<desc>{escape(_description(drawn))}</desc>",
        f'<rect width="{_WIDTH}" height="{height}" fill="{colours.paper}"/>',
        _text(16, 26, title, colours.ink, weight=600),
        _text(16, 46, "thick: 95 % interval over rows; thin, dashed: over seeds", colours.muted),
        *_frame(axis, drawn, height - _BOTTOM, colours),
    ]
    for place, one in enumerate(drawn):
        parts += _row(one, axis, _TOP + _ROW * place + _ROW / 2, colours, verdicts.get(one.ours))
    if not drawn:
        parts.append(_text(16, _TOP + _ROW / 2, "No difference could be measured.", colours.muted))
    return "\n".join([*parts, "</svg>\n"])


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float

    @classmethod
    def over(cls, drawn: Sequence[PairedComparison]) -> "_Axis":
        """Span all that is drawn, and 0."""
        values = [0.0]
        for one in drawn:
            assert one.difference is not None
            values.append(one.difference)
            values += [one.margin, -one.margin] if one.margin is not None else []
            for evidence in (one.over_rows, one.over_seeds):
                values += [] if evidence is None else [evidence.interval.low, evidence.interval.high]
        low, high = min(values), max(values)
        spare = _MARGIN_SHARE * (high - low) or 1.0
        return cls(low - spare, high + spare)

    def x(self, value: float) -> float:
        return _LEFT + (value - self.low) / (self.high - self.low) * (_RIGHT - _LEFT)

    def ticks(self) -> list[float]:
        """Give round numbers, at most about `_TICKS`."""
        rough = (self.high - self.low) / _TICKS
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
        first = math.ceil(self.low / step)
        return [place * step for place in range(first, math.floor(self.high / step) + 1)]


def _title(found: MetricReport) -> str:
    first = found.comparisons[0].theirs if found.comparisons else "the first arm"
    way = {"higher": "; more is better", "lower": "; less is better"}.get(found.better, "")
    return f"{found.metric}: difference from {first}{way}"


def _description(drawn: Sequence[PairedComparison]) -> str:
    return "; ".join(f"{one.ours} {_numbers(one)}" for one in drawn)


def _frame(axis: _Axis, drawn: Sequence[PairedComparison], bottom: float, colours: _Colours) -> list[str]:
    parts = []
    margin = drawn[0].margin if drawn else None
    if margin is not None:
        left, right = axis.x(-margin), axis.x(margin)
        parts.append(
            f'<rect x="{left:.1f}" y="{_TOP}" width="{right - left:.1f}" height="{bottom - _TOP:.1f}" '
            f'fill="{colours.band}"/>'
        )
        parts.append(_text(_LEFT, bottom + 42, f"shaded: within the margin of {margin:g}", colours.muted))
    parts.append(_line(axis.x(0), _TOP, axis.x(0), bottom, colours.ink, 1))
    parts.append(_line(_LEFT, bottom, _RIGHT, bottom, colours.muted, 1))
    for value in axis.ticks():
        x = axis.x(value)
        parts.append(_line(x, bottom, x, bottom + 5, colours.muted, 1))
        parts.append(_text(x, bottom + 20, _number(value, axis.high - axis.low), colours.muted, anchor="middle"))
    return parts


def _row(one: PairedComparison, axis: _Axis, y: float, colours: _Colours, word: Word | None) -> list[str]:
    assert one.difference is not None
    parts = [_text(16, y + 4, _cut(one.ours), colours.ink)]
    if one.over_rows is not None:
        ends = axis.x(one.over_rows.interval.low), axis.x(one.over_rows.interval.high)
        parts.append(_line(ends[0], y, ends[1], y, colours.rows, 5))
    if one.over_seeds is not None:
        ends = axis.x(one.over_seeds.interval.low), axis.x(one.over_seeds.interval.high)
        parts.append(_line(ends[0], y + 9, ends[1], y + 9, colours.seeds, 1.5, dashes="4 3"))
    parts.append(f'<circle cx="{axis.x(one.difference):.1f}" cy="{y:.1f}" r="5" fill="{colours.ink}"/>')
    parts.append(_text(_RIGHT + 14, y, _numbers(one), colours.ink))
    if word is not None:
        parts.append(_text(_RIGHT + 14, y + 15, WORDS[word], colours.muted))
    return parts


def _numbers(one: PairedComparison) -> str:
    assert one.difference is not None
    if one.over_rows is None:
        return f"{one.difference:+.3g}"
    low, high = one.over_rows.interval.low, one.over_rows.interval.high
    span = high - low or abs(one.difference)
    return f"{_number(one.difference, span)} ({_number(low, span)} to {_number(high, span)})"


def _number(value: float, span: float) -> str:
    """Write a number with two digits of the span that it is one of, and a sign unless it is 0."""
    decimals = min(max(1 - math.floor(math.log10(span)), 0), 9) if span > 0 else 3
    shown = f"{value:+.{decimals}f}"
    return shown if float(shown) else shown[1:]


def _cut(name: str) -> str:
    return name if len(name) <= _NAME_CHARS else f"{name[: _NAME_CHARS - 1]}…"


def _text(x: float, y: float, text: str, colour: str, *, weight: int = 400, anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" font-weight="{weight}" text-anchor="{anchor}">'
        f"{escape(text)}</text>"
    )


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float, *, dashes: str | None = None) -> str:
    dashed = "" if dashes is None else f' stroke-dasharray="{dashes}"'
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
        f'stroke-width="{width:g}" stroke-linecap="round"{dashed}/>'
    )
