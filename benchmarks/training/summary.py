"""What a run's measurements say: medians over the rounds, and ratios. Pure arithmetic."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import median
from typing import Final

from benchmarks.training.measurement import Measurement
from worker.training.model.ablations import SHOWS_WITHOUT, Techniques

RATIOS: Final = ("hf_best", "trl_tuned", "trl_default", "seed")


@dataclass(frozen=True)
class Summary:
    """One trainer in one number type, over all rounds it took part in. Medians, but for the two named otherwise."""

    trainer: str
    dtype: str
    rounds: int
    examples: int
    useful_tokens_per_s: float
    trained_tokens_per_s: float
    step_s: float
    fastest_step_s: float
    startup_s: float
    peak_memory_bytes: float
    held_out_loss: float | None  # of the round that was scored
    roofline_share: float | None
    needed_share: float | None
    peak_share: float | None


def summarise(measured: Iterable[Measurement]) -> dict[str, Summary]:
    """Put the measurements of each trainer in each number type together, by their names."""
    by_name: dict[str, list[Measurement]] = defaultdict(list)
    for one in measured:
        by_name[one.contestant].append(one)
    return {name: _summarise(several) for name, several in by_name.items()}


def _summarise(several: Sequence[Measurement]) -> Summary:
    steps = [seconds for one in several for seconds in one.step_s]
    return Summary(
        trainer=several[0].trainer,
        dtype=several[0].dtype,
        rounds=len(several),
        examples=several[0].examples,
        useful_tokens_per_s=median(one.useful_tokens_per_s for one in several),
        trained_tokens_per_s=median(one.trained_tokens_per_s for one in several),
        step_s=median(steps),
        fastest_step_s=min(steps),
        startup_s=median(one.startup_s for one in several),
        peak_memory_bytes=median(one.peak_memory_bytes for one in several),
        held_out_loss=next((one.held_out_loss for one in several if one.held_out_loss is not None), None),
        roofline_share=_median(one.roofline_share for one in several),
        needed_share=_median(one.needed_share for one in several),
        peak_share=_median(one.peak_share for one in several),
    )


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def ratios(summaries: Mapping[str, Summary]) -> dict[str, float]:
    """Give how many times as many useful tokens a second ours does, and its share of the roofline.

    A rival counts in the number type in which it was fastest; who took no part has no ratio.
    """
    ours = find_fastest(summaries, "ours")
    assert ours is not None, "ours always takes part"
    rivals = {rival: found for rival in RATIOS if (found := find_fastest(summaries, rival)) is not None}
    factors = {rival: ours.useful_tokens_per_s / found.useful_tokens_per_s for rival, found in rivals.items()}
    return factors if ours.roofline_share is None else factors | {"roofline": ours.roofline_share}


def find_fastest(summaries: Mapping[str, Summary], trainer: str) -> Summary | None:
    """Give a trainer in the number type in which it was fastest; None: it took no part."""
    own = (one for one in summaries.values() if one.trainer == trainer)
    return max(own, key=lambda one: one.useful_tokens_per_s, default=None)


def ablations() -> list[tuple[str, ...]]:
    """List what is switched off in each measurement of the table: nothing, each technique, and what those need.

    A technique that shows only without another is compared with a run without that other one.
    """
    combinations: list[tuple[str, ...]] = [()]
    for technique in fields(Techniques):
        for off in (baseline_of(technique.name), (*baseline_of(technique.name), technique.name)):
            if off not in combinations:
                combinations.append(off)
    return combinations


def baseline_of(technique: str) -> tuple[str, ...]:
    """Give what is off where a technique's worth is measured, itself not counted."""
    return (SHOWS_WITHOUT[technique],) if technique in SHOWS_WITHOUT else ()


@dataclass(frozen=True)
class Ablation:
    """Ours without one technique; ``slowdown`` above 1 means that the technique makes it faster."""

    technique: str
    baseline: tuple[str, ...]
    useful_tokens_per_s: float
    slowdown: float
    memory_growth_bytes: float


def summarise_ablations(measured: Iterable[Measurement]) -> list[Ablation]:
    """Compare medians over the rounds with and without each technique."""
    by_off: dict[tuple[str, ...], list[Measurement]] = defaultdict(list)
    for one in measured:
        by_off[tuple(one.without)].append(one)
    summaries = []
    for technique in fields(Techniques):
        baseline = baseline_of(technique.name)
        on, off = (_summarise(by_off[key]) for key in (baseline, (*baseline, technique.name)))
        summaries.append(
            Ablation(
                technique=technique.name,
                baseline=baseline,
                useful_tokens_per_s=off.useful_tokens_per_s,
                slowdown=on.useful_tokens_per_s / off.useful_tokens_per_s,
                memory_growth_bytes=off.peak_memory_bytes - on.peak_memory_bytes,
            )
        )
    return sorted(summaries, key=lambda one: -one.slowdown)
