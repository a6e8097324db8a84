"""What a fine-tuning job of OpenAI's is here: the request that makes it, and every way in which it is another.

Reads nothing and asks nobody.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from core.errors import StartRefused

_SUFFIX: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MOST: Final = {"n_epochs": 50, "batch_size": 256}  # that a job here can have
_ORIGIN: Final = "openai_job"  # key of the metadata
_MAX_METADATA: Final = 16


@dataclass(frozen=True)
class JobPlan:
    """``request``: the fields of the job here, but for its files. ``differences``: in words, each by its field."""

    job_id: str
    training_file: str
    validation_file: str | None
    request: dict[str, Any]
    differences: tuple[str, ...]


def plan_job(job: Mapping[str, Any], base_model: str) -> JobPlan:
    """Translate a job as OpenAI's API shows it.

    Raises:
        StartRefused: it was trained by a method that there is none of here, or is not what it should be.
    """
    method = job.get("method") or {}
    kind = method.get("type", "supervised")
    if kind != "supervised":
        raise StartRefused(f"{job.get('id')} learnt by {kind} (method.type); jobs here learn from answers: supervised")
    if not isinstance(job.get("id"), str) or not isinstance(job.get("training_file"), str):
        raise StartRefused("what was read is no fine-tuning job: it has no id or no training_file")
    asked = (method.get("supervised") or {}).get("hyperparameters") or job.get("hyperparameters") or {}
    hyperparameters = {name: _whole(asked.get(name), _MOST[name]) for name in _MOST}
    suffix, metadata = _suffix(job), dict(job.get("metadata") or {})
    if len(metadata) < _MAX_METADATA:
        metadata[_ORIGIN] = job["id"]
    fields = {"seed": job.get("seed"), "suffix": suffix if suffix and _SUFFIX.fullmatch(suffix) else None}
    request = {
        "model": base_model,
        "hyperparameters": hyperparameters,
        **{name: value for name, value in fields.items() if value is not None},
        "metadata": metadata,
    }
    differences = (*_of_the_job(job, base_model, suffix), *_of_hyperparameters(asked, hyperparameters))
    return JobPlan(job["id"], job["training_file"], job.get("validation_file"), request, differences)


def _whole(asked: Any, most: int) -> int | str:
    is_number = isinstance(asked, int | float) and not isinstance(asked, bool) and asked >= 1
    return min(int(asked), most) if is_number else "auto"


def _suffix(job: Mapping[str, Any]) -> str | None:
    """Give what the job was asked to be called; None: nothing."""
    named = str(job.get("fine_tuned_model") or "").split(":")  # ft, base, organisation, suffix, id
    return job.get("user_provided_suffix") or (named[3] if len(named) == 5 else None) or None


def _of_the_job(job: Mapping[str, Any], base_model: str, suffix: str | None) -> Iterator[str]:
    yield f"model: {base_model} is trained, with LoRA, in the place of {job.get('model')}"
    if suffix is not None and not _SUFFIX.fullmatch(suffix):
        yield f"suffix: {suffix!r} can be no part of a model's name here, and is left out"
    if not job.get("validation_file"):
        yield "validation_file: it had none; a tenth of the prompts is held out here, to be scored and not learnt from"
    if job.get("seed") is not None:
        yield f"seed: {job['seed']} shuffles by another rule, so the order of rows is another"
    if job.get("integrations"):
        yield "integrations: there are none here"
    if job.get("metadata") and len(job["metadata"]) >= _MAX_METADATA:
        yield f"metadata: it has {_MAX_METADATA} pairs already, so {_ORIGIN} is not among them"


def _of_hyperparameters(asked: Mapping[str, Any], taken: Mapping[str, Any]) -> Iterator[str]:
    told = {
        "n_epochs": "OpenAI's rule for it is not published, here it is 3",
        "batch_size": "OpenAI's rule for it is not published, here it is 16, fewer where an epoch has not 8 steps",
    }
    for name, value in taken.items():
        if value == "auto":
            yield f"{name}: auto; {told[name]}"
        elif value != asked[name]:
            yield f"{name}: {value} in the place of {asked[name]}"
    if isinstance(taken["batch_size"], int):
        yield "batch_size: a batch has never more examples than the file"
    multiplier = asked.get("learning_rate_multiplier", "auto")
    yield (
        f"learning_rate_multiplier: auto, the base model's own rate, in the place of {multiplier}: "
        "it multiplies a rate of OpenAI's for its own model, which is not published"
    )
    for name in sorted(set(asked) - {*taken, "learning_rate_multiplier"}):
        yield f"{name}: {asked[name]} has no counterpart here"
