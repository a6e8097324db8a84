"""Where each setting of a job comes from: who asked for it, or which rule gave it.

A setting's value stands in the job's specification, what was asked for in its request. The rules themselves are
``core.jobs.resolve``'s; the sentences here say which one was applied.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal

from core.jobs.resolve import ALPHA_PER_RANK, BATCH_SIZE, STEPS_PER_EPOCH
from core.jobs.spec import JobSpec, LoraSpec, TrainingSettings
from core.text.render_settings import MAX_LENGTH_TOKENS
from core.values import Frozen

Origin = Literal["you", "default", "auto"]

SETTINGS: Final = (
    "n_epochs",
    "batch_size",
    "learning_rate_multiplier",
    *(name for name in TrainingSettings.model_fields if name != "lora"),
    *(f"lora.{name}" for name in LoraSpec.model_fields),
)
_BASE_RATE: Final = "the base model's own rate"
# what follows from other fields, from the files or from the base model
_RULES: Final = {
    "batch_size": f"so few examples that an epoch has about {STEPS_PER_EPOCH} steps, at most {BATCH_SIZE}",
    "learning_rate": f"{_BASE_RATE}, times learning_rate_multiplier",
    "seed": "drawn when the job was made",
    "warmup_ratio": "3 % of the steps, at least 5 but at most a tenth of them",
    "max_length": f"{MAX_LENGTH_TOKENS} tokens, or the base model's context where that is shorter",
    "lora.alpha": f"{ALPHA_PER_RANK:g} times the rank",
}
_RULES_OF_EARLY_STOPPING: Final = {
    "n_evals": "at least so many that the patience of early stopping can run out half-way",
    "load_best_model_at_end": "with early stopping the best checkpoint is published",
}


class ExperimentPlace(Frozen):
    """Which of an experiment's runs a job is.

    Attributes:
        arm: its name.
        rate_factor: of the arm's learning rate.
    """

    id: str
    arm: str
    seed: int
    rate_factor: float


class EffectiveSetting(Frozen):
    """A setting in force.

    Attributes:
        origin: "you": the request names it; "auto": a rule made it of the job's other fields, its files, its base
            model or its experiment; "default": it is the same for every job that leaves it out.
        why: the rule, in words; None where there is nothing to say.
    """

    value: Any
    origin: Origin
    why: str | None


def settings_of(
    spec: JobSpec, requested: Mapping[str, Any], place: ExperimentPlace | None
) -> dict[str, EffectiveSetting]:
    """Give every setting of a job by its name, those of ``lora`` with a dot.

    Args:
        requested: the fields of the job's request as they were sent.
        place: of a job that an experiment made.
    """
    asked = _asked(requested)
    settings = {}
    for name in SETTINGS:
        origin, why = _origin_in_experiment(name, place) or _origin(name, spec, asked)
        settings[name] = EffectiveSetting(value=_value(spec, name), origin=origin, why=why)
    return settings


def _value(spec: JobSpec, name: str) -> Any:
    field, _, part = name.partition(".")
    value = getattr(spec, field)
    value = getattr(value, part) if part else value
    return value.model_dump(mode="json") if isinstance(value, Frozen) else value


def _asked(requested: Mapping[str, Any]) -> dict[str, Any]:
    """Give what the request names, by the names of settings; a field that is null is left to its rule."""
    supervised = (requested.get("method") or {}).get("supervised") or {}
    hyperparameters = supervised.get("hyperparameters") or requested.get("hyperparameters") or {}
    lora = {f"lora.{name}": value for name, value in (requested.get("lora") or {}).items()}
    return {name: value for name, value in (dict(requested) | hyperparameters | lora).items() if value is not None}


def _origin_in_experiment(name: str, place: ExperimentPlace | None) -> tuple[Origin, str] | None:
    if place is None:
        return None
    if name == "seed":
        return "auto", f"one of the seeds of {place.id}"
    if name in ("learning_rate", "learning_rate_multiplier") and place.rate_factor != 1:
        return "auto", f"{place.rate_factor:.3g} times the arm's own, which {place.id} tries"
    return None


def _origin(name: str, spec: JobSpec, asked: Mapping[str, Any]) -> tuple[Origin, str | None]:
    if name == "batch_size" and asked.get(name, 0) > spec.batch_size:
        return "you", f"asked for were {asked[name]}, more than the file has examples"
    if name in asked:
        return "you", None
    if name == "learning_rate_multiplier" and "learning_rate" in asked:
        return "auto", f"learning_rate as a multiple of {_BASE_RATE}"
    if spec.continue_from is not None and name.startswith("lora.") and name != "lora.dropout":
        return "auto", f"as {spec.continue_from.name} has it, which continue_from names"
    if spec.early_stopping_patience is not None and name in _RULES_OF_EARLY_STOPPING:
        return "auto", _RULES_OF_EARLY_STOPPING[name]
    return ("auto", _RULES[name]) if name in _RULES else ("default", None)
