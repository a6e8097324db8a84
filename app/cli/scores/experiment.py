"""`loramill experiment`: which weight of the prompt is right for a file, asked of a running API.

The API does all of it: this uploads, waits, and shows what came of it. Whoever leaves only stops watching.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from app.cli.client import Client
from app.cli.columns import align
from app.cli.progress import counting, duration
from core.errors import InvalidInput, StartRefused
from core.experiments.arms import nested

POLL_S: Final = 2.0
RUNNING: Final = "running"


@dataclass(frozen=True)
class ExperimentOptions:
    """What was asked for on the command line. ``fields`` are of the job, by their paths."""

    file: Path
    model: str
    weights: tuple[float, ...]
    seeds: int
    judge: Path | None
    metric: str | None
    margin: float | None
    tune: bool
    prune: bool
    budget_s: int | None
    fields: Mapping[str, Any]


def run_experiment(client: Client, options: ExperimentOptions, *, dry_run: bool, as_json: bool) -> None:
    """Run an experiment to its end and show its report, or with ``dry_run`` only what it would do.

    Raises:
        StartRefused: the API does not answer or refused something, or the experiment came to nothing.
    """
    console = Console(stderr=True)  # the report alone goes to stdout
    body = body_of(options, upload=client.upload)
    if dry_run:
        estimate = client.estimate_experiment(body)
        print(json.dumps(estimate, indent=2) if as_json else plan_text(estimate))
        return
    experiment = client.create_experiment(body)
    console.print(f"experiment {experiment['id']}\n{plan_text(experiment)}", highlight=False, soft_wrap=True)
    try:
        watch(client, experiment["id"], console)
    except KeyboardInterrupt:
        path = f"/v1/experiments/{experiment['id']}"
        console.print(f"the experiment goes on: GET {path}, or POST {path}/cancel", highlight=False, soft_wrap=True)
        raise
    report = client.experiment_report(experiment["id"])
    print(json.dumps(report, indent=2) if as_json else report_text(report))


def body_of(options: ExperimentOptions, *, upload: Callable[[Path], str]) -> dict[str, Any]:
    """Give the request; ``upload`` takes a file and gives its id.

    Raises:
        InvalidParameter: a field is given as a whole, and a part of it too.
    """
    fields = nested(options.fields, "--set")
    job = {"model": options.model, "training_file": upload(options.file)} | fields
    wanted = {
        "judge": None if options.judge is None else upload(options.judge),
        "primary_metric": options.metric,
        "margin": options.margin,
        "tune": "learning_rate" if options.tune else None,
        "prune": options.prune or None,
        "budget_s": options.budget_s,
    }
    asked = {"job": job, "question": "labels", "weights": list(options.weights), "seeds": options.seeds}
    return asked | {name: value for name, value in wanted.items() if value is not None}


def read_fields(pairs: Sequence[str]) -> dict[str, Any]:
    """Read ``lora.rank=8`` and the like; a value that is no JSON is a text.

    Raises:
        InvalidInput: one has no "=".
    """
    fields: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise InvalidInput(f"--set {pair}: write it as field=value, as lora.rank=8")
        try:
            fields[name] = json.loads(value)
        except json.JSONDecodeError:
            fields[name] = value
    return fields


def watch(client: Client, experiment_id: str, console: Console) -> dict[str, Any]:
    """Show how far an experiment is until it has ended, and give it.

    Raises:
        StartRefused: it did not succeed; with its own error.
    """
    with counting(console, "experiment") as show:
        while (experiment := client.experiment(experiment_id))["status"] == RUNNING:
            show(*how_far(client, experiment))
            time.sleep(POLL_S)
    if experiment["status"] != "succeeded":
        raise StartRefused(f"experiment {experiment_id} {experiment['status']}: {experiment['error'] or 'no reason'}")
    return experiment


def how_far(client: Client, experiment: Mapping[str, Any]) -> tuple[int, int | None, str]:
    """Give how much is done of how much, and in words of what."""
    if experiment["stage"] == "training":
        runs = experiment["runs"]
        under_way = next((run for run in runs if run["status"] == "running"), None)
        if under_way is None:
            return experiment["runs_ended"], len(runs), "no run is under way"
        progress = client.job(under_way["job"])["progress"] or {}
        step = f", step {progress['step']} of {progress['total_steps']}" if "total_steps" in progress else ""
        said = f"training {under_way['arm']}, seed {under_way['seed']}{step}"
        return experiment["runs_ended"], len(runs), said
    progress = client.evaluation(experiment[f"{experiment['stage']}_evaluation"])["progress"] or {}
    return progress.get("answers", 0), progress.get("total_answers"), f"{experiment['stage']} by answers"


def plan_text(plan: Mapping[str, Any]) -> str:
    """Say what an experiment is going to do."""
    estimate, rows = plan["estimate"], plan["rows"]
    seconds = estimate["training_seconds"]
    took = "a time that is not known yet" if seconds is None else f"about {duration(seconds)}"
    queue = estimate["queue"] or {}
    ahead = queue.get("seconds_ahead")
    waits = "" if not ahead else f", after {duration(ahead)} in the queue"
    lines = [
        f"{', '.join(arm['name'] for arm in plan['arms'])}: {estimate['runs']} runs on {rows['train']:,} rows take "
        f"{took}{waits}; {estimate['judged_models']} models are then judged by {rows['judge']:,} rows.",
        plan["detectable"]["text"],
        *plan["notes"],
    ]
    return "\n".join(lines)


def report_text(report: Mapping[str, Any]) -> str:
    """Say what an experiment found, for people."""
    parts = [report["equal_rates"]["paragraph"], _table(report["equal_rates"])]
    if report["tuned"] is not None:
        parts += [
            "Each arm at the best of three learning rates:",
            report["tuned"]["paragraph"],
            _table(report["tuned"]),
        ]
    return "\n\n".join([*parts, *report["notes"]])


def _table(compared: Mapping[str, Any]) -> str:
    rows = [("metric", "arm", "mean", "95 % over rows", "95 % over seeds")]
    for metric in compared["metrics"]:
        for arm in metric["arms"]:
            mean = arm["mean"]
            rows.append(
                (
                    metric["metric"],
                    arm["arm"],
                    _number(mean["mean"]),
                    _interval(mean["interval"]),
                    _interval(arm["over_seeds"]),
                )
            )
    return align(rows)


def _interval(interval: Mapping[str, float] | None) -> str:
    return "–" if interval is None else f"{_number(interval['low'])} to {_number(interval['high'])}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
