"""Plans and scores of experiments that nobody trained."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from core.estimates.estimate import Estimate
from core.evaluations.spec import EvaluationSpec
from core.experiments.plan import ExperimentPlan, PlannedArm, PlannedRun, RowCounts
from core.experiments.scores import RunScores, ScoreTable
from core.jobs.spec import FileRef
from tests.harness.evaluation_specs import make_evaluation_spec
from tests.harness.job_specs import make_job_spec

ROWS = 200


def file_ref(name: str, examples: int = ROWS) -> FileRef:
    return FileRef(id=name, sha256="0" * 64, examples=examples, file_type="jsonl")


def arm(name: str, estimate: Estimate | None = None, **spec: Any) -> PlannedArm:
    usual = {"base_model": "base", "validation_file": file_ref("file-judge"), "batch_size": 4, "seed": 1}
    fields: dict[str, Any] = {"training_file": file_ref("file-train")} | usual | spec
    return PlannedArm(name=name, fields={}, spec=make_job_spec(**fields), requested={}, estimate=estimate)


def evaluation(file: str) -> EvaluationSpec:
    lines, metrics = tuple(range(1, ROWS + 1)), ("nats_per_token", "exact_match")
    return make_evaluation_spec(file_ref(file), base_model="base", lines=lines, models=(), metrics=metrics)


def plan(names: Sequence[str] = ("w = 0", "w = 0.1", "w = 1"), **others: Any) -> ExperimentPlan:
    fields: dict[str, Any] = {
        "base_model": "base",
        "arms": tuple(arm(name) for name in names),
        "seeds": (1, 2, 3),
        "base": True,
        "primary_metric": "nats_per_token",
        "metrics": ("exact_match", "length_ratio"),
        "margin": None,
        "judging": evaluation("file-judge"),
        "choosing": None,
        "rows": RowCounts(train=1000, choose=None, judge=ROWS),
        "different_rows": ROWS,
        "tunes": False,
        "prunes": False,
        "budget_s": None,
        "notes": (),
    }
    return ExperimentPlan.model_validate(fields | others)


def scores(
    made: ExperimentPlan,
    means: Mapping[str, float],
    *,
    rows: int = ROWS,
    factors: Sequence[float] = (1.0,),
    seeds: Sequence[int] | None = None,
) -> ScoreTable:
    """Score the arms that have a mean, and the base model where it has one; seeds and rows scatter around it."""
    random = np.random.default_rng(5)
    difficulty = random.gamma(2, 0.2, rows)
    models = []
    for place, one in enumerate(made.arms):
        for factor in factors:
            for seed in made.seeds if seeds is None else seeds:
                if one.name in means:
                    mean = means[one.name] + 0.002 * np.random.default_rng(seed).standard_normal()
                    run = PlannedRun(arm=place, seed=seed, rate_factor=factor)
                    models.append(_model(run, mean - 0.05 * (factor < 1), difficulty, random))
    if "base" in means:
        models.append(_model(None, means["base"], difficulty, random))
    return ScoreTable(
        lines_N=range(1, rows + 1),
        clusters_N=[f"{row:016x}" for row in range(rows)],
        tokens_N=[3 + row % 5 for row in range(rows)],
        models=models,
    )


def _model(run: PlannedRun | None, mean: float, difficulty: Any, random: Any) -> RunScores:
    nats = mean + difficulty + 0.05 * random.standard_normal(len(difficulty))
    return RunScores(
        run,
        {
            "nats_per_token": nats.tolist(),
            "exact_match": (nats < 1).astype(float).tolist(),
            "length_ratio": [None, *np.ones(len(nats) - 1).tolist()],
        },
    )
