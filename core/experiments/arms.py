"""Which arms an experiment has, and the job that each of them is: the one that all share, with an arm's fields over it.

Works on requests as they are written, in JSON. Whether a job may have a field, and such a value, is found out where
jobs are made; the errors then name the arm by ``AskedArm.param``.
"""

import itertools
import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from core.errors import InvalidParameter
from core.experiments.requested import LABEL_WEIGHTS, MAX_ARMS, MAX_SEEDS, ExperimentFields, RandomArms, ValueRange

BASE_ARM: Final = "base"
MAX_NAME_CHARS: Final = 64
# An arm that changed these would be judged on other rows, or by other tokens, or would be no arm but a seed.
_SHARED: Final[Mapping[str, str]] = {
    "model": "all arms are of one base model, as tokens of another are other tokens",
    "training_file": "all arms see the same rows",
    "validation_file": "all arms see the same rows",
    "prompt_format": "all arms are asked the same prompts",
    "train_on": "all arms are asked the same prompts",
    "seed": "seeds are the experiment's: see `seeds`",
    "suffix": "models are told apart by the arms' names",
    "metadata": "jobs of an experiment carry the experiment's",
}
_DIGITS: Final = 6  # of a number that is drawn


@dataclass(frozen=True)
class AskedArm:
    """An arm before its job is resolved; ``param`` is the request's field that it stands in."""

    name: str
    fields: dict[str, Any]
    param: str


def list_arms(asked: ExperimentFields) -> list[AskedArm]:
    """List the arms in their order; the first one is what the others are compared with.

    Raises:
        InvalidParameter: they are asked for in two ways or none, are too many, or an arm is no arm.
    """
    given = {
        name
        for name, value in (
            ("arms", asked.arms),
            ("grid", asked.grid),
            ("random", asked.random),
            ("question", asked.question),
        )
        if value is not None
    }
    if len(given) != 1:
        raise InvalidParameter("arms", "give exactly one of arms, grid, random and question")
    if asked.weights is not None and asked.question is None:
        raise InvalidParameter("weights", 'these are the arms of "question": "labels"; else write them as arms')
    arms = list(itertools.islice(_listed(asked), MAX_ARMS + 1))
    if len(arms) > MAX_ARMS:
        raise InvalidParameter(given.pop(), f"there are more than {MAX_ARMS} arms")
    _check(arms, asked)
    return arms


def seeds_of(asked: ExperimentFields) -> tuple[int, ...]:
    """Give the seeds, each once.

    Raises:
        InvalidParameter: there are none, too many, or one twice.
    """
    seeds = tuple(range(1, asked.seeds + 1)) if isinstance(asked.seeds, int) else asked.seeds
    if not 1 <= len(seeds) <= MAX_SEEDS:
        raise InvalidParameter("seeds", f"there must be from 1 to {MAX_SEEDS}, not {len(seeds)}")
    if len(set(seeds)) < len(seeds):
        raise InvalidParameter("seeds", "one stands twice: the same run again shows nothing new")
    return seeds


def job_of(shared: Mapping[str, Any], arm: AskedArm) -> dict[str, Any]:
    """Give an arm's job as it would be asked for: objects are laid over each other field by field."""
    return _over(shared, arm.fields)


def nested(values: Mapping[str, Any], param: str) -> dict[str, Any]:
    """Lay out fields that are given by their paths, as ``lora.rank``.

    Args:
        param: what gave them.

    Raises:
        InvalidParameter: one is given as a whole, and in part before or after.
    """
    fields: dict[str, Any] = {}
    for path, value in values.items():
        *outer, last = path.split(".")
        place = fields
        for name in outer:
            place = place.setdefault(name, {})
            if not isinstance(place, dict):
                raise InvalidParameter(f"{param}.{path}", f"{name} is given as a whole, too; give it once")
        if last in place:
            raise InvalidParameter(f"{param}.{path}", "is given as a whole, too, beside a part of it; give it once")
        place[last] = value
    return fields


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for name, value in above.items():
        under = merged.get(name)
        merged[name] = _over(under, value) if isinstance(under, Mapping) and isinstance(value, Mapping) else value
    return merged


def _listed(asked: ExperimentFields) -> Iterator[AskedArm]:
    if asked.question is not None:
        for place, weight in enumerate(asked.weights or LABEL_WEIGHTS):
            yield AskedArm(f"w = {weight:g}", {"prompt_loss_weight": weight}, f"weights[{place}]")
    elif asked.arms is not None:
        for place, arm in enumerate(asked.arms):
            fields = {name: value for name, value in arm.items() if name != "name"}
            yield AskedArm(_name(arm, fields, f"arms[{place}]"), fields, f"arms[{place}]")
    elif asked.grid is not None:
        for values in itertools.product(*asked.grid.values()):
            yield _of_paths(dict(zip(asked.grid, values, strict=True)), "grid")
    elif asked.random is not None:
        for drawn in _drawn(asked.random):
            yield _of_paths(drawn, "random.fields")


def _name(arm: Mapping[str, Any], fields: Mapping[str, Any], param: str) -> str:
    name = arm.get("name")
    if name is None:
        return _named_by(dict(_paths(fields))) or "as it is"
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME_CHARS or not name.isprintable():
        raise InvalidParameter(f"{param}.name", f"must be 1 to {MAX_NAME_CHARS} printable characters")
    return name


def _of_paths(values: Mapping[str, Any], param: str) -> AskedArm:
    return AskedArm(_named_by(values), nested(values, param), param)


def _named_by(values: Mapping[str, Any]) -> str:
    pairs = [f"{path} = {value if isinstance(value, str) else json.dumps(value)}" for path, value in values.items()]
    shown = ", ".join(pairs)
    return shown if len(shown) <= MAX_NAME_CHARS else f"{shown[: MAX_NAME_CHARS - 1]}…"


def _paths(fields: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in fields.items():
        if isinstance(value, Mapping) and value:
            yield from _paths(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def _drawn(asked: RandomArms) -> Iterator[dict[str, Any]]:
    """Draw different arms; a few values that were all drawn before give fewer than were asked for."""
    random_ = random.Random(asked.seed)
    seen: set[str] = set()
    for _ in range(20 * asked.n):
        arm = {path: _draw(random_, choice, f"random.fields.{path}") for path, choice in sorted(asked.fields.items())}
        key = json.dumps(arm, sort_keys=True)
        if key not in seen:
            seen.add(key)
            yield arm
        if len(seen) == asked.n:
            return


def _draw(random_: random.Random, choice: Sequence[Any] | ValueRange, param: str) -> Any:
    if not isinstance(choice, ValueRange):
        if not choice:
            raise InvalidParameter(param, "there is nothing to draw from")
        return choice[random_.randrange(len(choice))]
    if not choice.low < choice.high or (choice.log and choice.low <= 0):
        raise InvalidParameter(param, "low must be less than high, and above 0 where log is true")
    share = random_.random()
    if choice.log:
        value = math.exp(math.log(choice.low) + share * (math.log(choice.high) - math.log(choice.low)))
    else:
        value = choice.low + share * (choice.high - choice.low)
    return float(f"{value:.{_DIGITS}g}")


def _check(arms: Sequence[AskedArm], asked: ExperimentFields) -> None:
    if len(arms) + asked.base < 2:
        raise InvalidParameter(arms[0].param if arms else "arms", "there is nothing to compare with; add another arm")
    names: dict[str, str] = {BASE_ARM: "base"} if asked.base else {}
    for arm in arms:
        for field, reason in _SHARED.items():
            if field in arm.fields:
                raise InvalidParameter(f"{arm.param}.{field}", f"{arm.name}: {reason}; leave it out")
        if arm.name in names:
            raise InvalidParameter(arm.param, f"{arm.name} is the name of {names[arm.name]}, too; give it another")
        names[arm.name] = arm.param
