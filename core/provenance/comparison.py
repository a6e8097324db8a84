"""How two jobs differ: in what they were told, in what they were fed, in what computed them, in what they came to.

Of a rerun, which is told and fed the same, what is left is why its weights may not be the same bits.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from core.provenance.manifest import JobManifest
from core.provenance.record import Stint
from core.values import Frozen


class Difference(Frozen):
    """What two jobs do not have in common. A list: one of them was trained in several stints, each with its own."""

    name: str
    this: Any
    other: Any


class JobComparison(Frozen):
    """All differences between two jobs, by what they are differences of; what one did not record is null there."""

    object: Literal["fine_tuning.job.comparison"]
    this: str
    other: str
    settings: tuple[Difference, ...]
    data: tuple[Difference, ...]
    base_model: tuple[Difference, ...]
    environment: tuple[Difference, ...]
    results: tuple[Difference, ...]


class RerunVerdict(Frozen):
    """What a rerun came to.

    Attributes:
        same_weights: whether the adapter's weights are the bits of the other's; None: that cannot be told.
        may_be_why: what differs of all that can change a bit; `Difference.this` is the rerun's.
        unrecorded: of one of the two it was not recorded, so there may be more.
    """

    same_weights: bool | None
    may_be_why: tuple[Difference, ...]
    unrecorded: bool


def compare(this: JobManifest, other: JobManifest) -> JobComparison:
    """Give all differences between two jobs."""
    return JobComparison(
        object="fine_tuning.job.comparison",
        this=this.id,
        other=other.id,
        settings=_differences(_settings(this), _settings(other)),
        data=_differences(_data(this), _data(other)),
        base_model=_differences(dict(this.base_model), dict(other.base_model)),
        environment=_differences(_environment(this), _environment(other)),
        results=_differences(_results(this), _results(other)),
    )


def judge_rerun(this: JobManifest, other: JobManifest, weights_sha256: str | None) -> RerunVerdict:
    """Say whether a rerun gave the same bits, and what may be why where it did not.

    Args:
        weights_sha256: of the other job's adapter; None: not known.
    """
    ours = None if this.adapter is None else this.adapter.weights_sha256
    found = compare(this, other)
    # no bit depends on how a machine is called
    environment = [one for one in found.environment if one.name not in ("host", "system")]
    told = [one for one in (*found.data, *found.base_model, *environment) if None not in (one.this, one.other)]
    return RerunVerdict(
        same_weights=None if None in (ours, weights_sha256) else ours == weights_sha256,
        may_be_why=tuple(told),
        unrecorded=this.stints is None or other.stints is None,
    )


def sentence_of(verdict: RerunVerdict, other: str) -> str:
    """Say a verdict in words.

    Args:
        other: id of the job that was made again.
    """
    if verdict.same_weights is None:
        return f"Whether the adapter's weights are the same bits as those of {other} cannot be told: those are gone"
    if verdict.same_weights:
        return f"The adapter's weights are the same bits as those of {other}"
    told = f"The adapter's weights are not the same bits as those of {other}"
    reasons = "; ".join(f"{one.name} was {_text(one.other)}, is {_text(one.this)}" for one in verdict.may_be_why)
    if reasons:
        return f"{told}. What may be why: {reasons}"
    if verdict.unrecorded:
        return f"{told}. What computed {other} was not recorded, so nothing can be said of why"
    return f"{told}, and nothing that was recorded differs"


def _differences(this: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[Difference, ...]:
    names = dict.fromkeys((*this, *other))
    return tuple(
        Difference(name=name, this=this.get(name), other=other.get(name))
        for name in names
        if this.get(name) != other.get(name)
    )


def _settings(job: JobManifest) -> dict[str, Any]:
    continued = job.parents.continue_from
    return {name: setting.value for name, setting in job.settings.items()} | {
        "continue_from": None if continued is None else continued.adapter_sha256
    }


def _data(job: JobManifest) -> dict[str, Any]:
    data = job.data
    files = {"training_file": data.training_file, "validation_file": data.validation_file}
    rendered = {"rendered": data.rendered, "rendered_held_out": data.rendered_held_out}
    return {
        **{f"{name}.sha256": None if file is None else file.sha256 for name, file in files.items()},
        "order.version": data.order.version,
        "order.held_out_version": data.order.held_out_version,
        **{f"{name}.sha256": None if examples is None else examples.sha256 for name, examples in rendered.items()},
        **{f"{name}.tokens": None if examples is None else examples.tokens for name, examples in rendered.items()},
    }


def _environment(job: JobManifest) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if job.measured is not None:  # both decide in which order sums are taken
        found = {"token_budget": job.measured.token_budget, "together": job.measured.together}
    if job.stints is not None:
        each = [_of_stint(stint) for stint in job.stints]
        names = dict.fromkeys(name for one in each for name in one)
        found |= {name: _one_or_all(one.get(name) for one in each) for name in names}
    return found


def _of_stint(stint: Stint) -> dict[str, Any]:
    return {"host": stint.host, "system": stint.system} | stint.environment


def _one_or_all(values: Iterable[Any]) -> Any:
    different = list(dict.fromkeys(values))
    return different[0] if len(different) == 1 else different


def _results(job: JobManifest) -> dict[str, Any]:
    found: dict[str, Any] = {"status": job.status.value}
    if job.adapter is not None:
        found |= {"weights_sha256": job.adapter.weights_sha256, "step": job.adapter.step}
    if job.results is not None:
        found |= {name: value for name, value in job.results if name not in ("metrics", "evaluation_id")}
        found |= {f"metrics.{name}": value for name, value in job.results.metrics.items()}
    if job.measured is not None:
        found |= {"seconds": job.measured.seconds.total, "peak_memory_bytes": job.measured.peak_memory_bytes}
    return found


def _text(value: Any) -> str:
    return ", then ".join(map(str, value)) if isinstance(value, list) else str(value)
