"""Which labels are right, on two data sets: an experiment of the product itself, and what the README says of it.

``python -m benchmarks.label_experiment`` runs the product's own question, ``labels``, on the bookings of `examples/`
and on the E2E restaurant descriptions, where that folder is there: weights 0, 0.1 and 1 of the prompt, three seeds
each, judged by 200 rows with different prompts. Over an hour on two cores; what was begun goes on when it is called
again. The result is benchmarks/results/labels.json, and the README's table of it is `table`.
"""

import argparse
import json
import signal
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from app.cli.client import Client
from app.cli.config import read_settings
from app.cli.demo import running_stack
from app.cli.scores.experiment import plan_text, report_text, watch
from app.cli.stack.address import openable_url
from app.cli.stack.preparation import refuse_contradictions, refuse_taken_port
from benchmarks.host import machine
from benchmarks.train import E2E
from core.scoring.verdict import WORDS
from core.settings import Settings
from core.text.held_out import hash_of
from examples.generate import SEED, make_examples

RESULT: Final = machine.RESULTS / "labels.json"
NOT_MEASURED: Final = "On this project's own data sets it has not been measured yet: `make experiment` does."
METRICS: Final = ("exact_match", "chrf", "stop_rate")

Row = Mapping[str, str]


@dataclass(frozen=True)
class ExperimentSize:
    """How much is trained and judged, alike for both data sets; the steps are those of `examples/job.json`."""

    train: int = 400
    judge: int = 200
    seeds: int = 3
    n_epochs: int = 1
    batch_size: int = 4


@dataclass(frozen=True)
class DataSet:
    """Rows to train on and others to judge by. ``rows`` None: they are not on this machine."""

    about: str
    rows: Callable[[ExperimentSize], tuple[list[Row], list[Row]] | None]


def bookings(size: ExperimentSize) -> tuple[list[Row], list[Row]]:
    """Make the example data, with as many more held-out rows as are wanted."""
    trained, judged = make_examples(SEED, held_out=size.judge)
    return list(trained[: size.train]), list(judged)


def restaurants(size: ExperimentSize) -> tuple[list[Row], list[Row]] | None:
    """Read the E2E descriptions: one row of each of some prompts to judge by, rows of other prompts to train on."""
    if not E2E.is_dir():
        return None
    rows = [json.loads(line) for name in ("train", "valid") for line in _lines(E2E / f"{name}.jsonl")]
    return split_by_prompt(rows, size)


def split_by_prompt(rows: Iterable[Row], size: ExperimentSize) -> tuple[list[Row], list[Row]]:
    """Take a prompt's first row to judge by, for the prompts of the smallest hashes; and of others rows to train on.

    Those to train on come in rounds: each prompt's first, then each one's second, so that they differ most.
    """
    by_prompt: dict[int, list[Row]] = {}
    for row in rows:
        by_prompt.setdefault(hash_of(row["prompt"]), []).append(row)
    ranked = [by_prompt[value] for value in sorted(by_prompt)]
    judged = [group[0] for group in ranked[: size.judge]]
    others = ranked[size.judge :]
    rounds = (group[turn] for turn in range(max(map(len, others), default=0)) for group in others if turn < len(group))
    trained = [row for _, row in zip(range(size.train), rounds, strict=False)]
    return trained, judged


DATA_SETS: Final = {
    "bookings": DataSet("messages to a booking desk, answered by a JSON record (`examples/`)", bookings),
    "e2e": DataSet("restaurant facts, answered by a sentence (E2E NLG, CC BY-SA 4.0)", restaurants),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.label_experiment", description=__doc__)
    for name, value in asdict(ExperimentSize()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    parser.add_argument("--data", nargs="+", choices=DATA_SETS, default=list(DATA_SETS))
    parser.add_argument("--out", type=Path, default=RESULT)
    asked = vars(parser.parse_args())
    names, out = asked.pop("data"), asked.pop("out")
    run(ExperimentSize(**asked), names, out)


def run(size: ExperimentSize, names: Sequence[str], out: Path) -> None:
    """Run the experiments one after another, and keep what each came to as soon as it is there."""
    settings, console = read_settings(), Console()
    refuse_contradictions(settings)
    refuse_taken_port(settings)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    begun = settings.home / "label-experiments.json"
    with running_stack(settings), Client(openable_url(settings), _key(settings)) as client:
        for name in names:
            rows = DATA_SETS[name].rows(size)
            if rows is None:
                console.print(f"{name}: left out, as its folder is not here", highlight=False)
                continue
            experiment = _begin_or_go_on(client, settings, begun, name, size, rows)
            console.print(f"{name}: experiment {experiment['id']}\n{plan_text(experiment)}", highlight=False)
            ended = watch(client, experiment["id"], console)
            report = client.experiment_report(experiment["id"])
            console.print(report_text(report), highlight=False, soft_wrap=True)
            keep(out, name, kept(ended, report, size))


def _begin_or_go_on(
    client: Client, settings: Settings, begun: Path, name: str, size: ExperimentSize, rows: tuple[list[Row], list[Row]]
) -> dict[str, Any]:
    """Give the experiment of the same size that was begun before, or a new one."""
    known: dict[str, Any] = json.loads(begun.read_text("utf-8")) if begun.exists() else {}
    key = f"{name} {json.dumps(asdict(size))}"
    if key in known:
        earlier = client.experiment(known[key])
        if earlier["status"] not in ("failed", "cancelled"):
            return earlier
    with tempfile.TemporaryDirectory() as folder:
        ids = [
            client.upload(_written(Path(folder) / f"{name}-{part}.jsonl", part_rows))
            for part, part_rows in zip(("train", "judge"), rows, strict=True)
        ]
    hyperparameters = {"n_epochs": size.n_epochs, "batch_size": size.batch_size}
    job = {
        "model": settings.base_models[0],
        "training_file": ids[0],
        "n_evals": 1,  # a run is judged by what it made, not by how it came there
        "hyperparameters": hyperparameters,
    }
    body = {"job": job, "question": "labels", "judge": ids[1], "seeds": size.seeds, "metrics": list(METRICS)}
    experiment = client.create_experiment(body)
    begun.write_text(json.dumps(known | {key: experiment["id"]}), "utf-8")
    return experiment


def kept(experiment: Mapping[str, Any], report: Mapping[str, Any], size: ExperimentSize) -> dict[str, Any]:
    """Give what is kept of a report."""
    compared = report["equal_rates"]
    return {
        "model": experiment["model"],
        "size": asdict(size),
        "different_rows": report["different_rows"],
        "took_s": experiment["finished_at"] - experiment["created_at"],
        "paragraph": compared["paragraph"],
        "verdicts": {verdict["comparison"]["ours"]: verdict["word"] for verdict in compared["verdicts"]},
        "metrics": {metric["metric"]: [_kept_arm(arm) for arm in metric["arms"]] for metric in compared["metrics"]},
        "notes": report["notes"],
        "machine": machine.describe(),
    }


def keep(out: Path, name: str, result: Mapping[str, Any]) -> None:
    """Keep a data set's result beside the others'."""
    before = json.loads(out.read_text("utf-8")) if out.exists() else {}
    machine.write_result(out, before | {name: result})


def table(results: Mapping[str, Any]) -> list[str]:
    """Write the README's table: a line for each data set and arm, each mean with its 95 % over rows and over seeds."""
    intervals = ("over rows", "over seeds")
    heads = ("data", "trained", "nats per answer token", *intervals, "exactly right", *intervals, "against w = 0")
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for name, result in results.items():
        exact = {arm["arm"]: arm for arm in result["metrics"]["exact_match"]}
        for arm in result["metrics"]["nats_per_token"]:
            verdict = result["verdicts"].get(arm["arm"])
            word = "–" if verdict is None else WORDS[verdict]
            cells = (name, arm["arm"], *_shown(arm, 3), *_shown(exact[arm["arm"]], 2), word)
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def paragraphs(results: Mapping[str, Any]) -> list[str]:
    """Write the verdicts' own words, data set by data set."""
    return [f"- {name}, {DATA_SETS[name].about}: {result['paragraph']}" for name, result in results.items()]


def _kept_arm(arm: Mapping[str, Any]) -> dict[str, Any]:
    interval = arm["mean"]["interval"] or {"low": None, "high": None}
    over_seeds = arm["over_seeds"] or {"low": None, "high": None}
    return {
        "arm": arm["arm"],
        "mean": arm["mean"]["mean"],
        **interval,
        "seeds_low": over_seeds["low"],
        "seeds_high": over_seeds["high"],
        "seed_means": arm["seed_means"],
    }


def _shown(arm: Mapping[str, Any], digits: int) -> tuple[str, str, str]:
    def between(low: float | None, high: float | None) -> str:
        return "–" if low is None or high is None else f"{low:.{digits}f} to {high:.{digits}f}"

    mean = "–" if arm["mean"] is None else f"{arm['mean']:.{digits}f}"
    return mean, between(arm["low"], arm["high"]), between(arm["seeds_low"], arm["seeds_high"])


def _lines(path: Path) -> list[str]:
    return path.read_text("utf-8").splitlines()


def _written(path: Path, rows: Iterable[Row]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def _key(settings: Settings) -> str | None:
    return settings.api_key.get_secret_value() if settings.api_key else None


if __name__ == "__main__":
    main()
