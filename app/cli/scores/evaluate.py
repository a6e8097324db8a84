"""`loramill evaluate`: has a running API's models answer the rows of a file, and prints how they compare."""

import time
from collections.abc import Mapping, Sequence
from enum import Enum, auto
from pathlib import Path
from typing import Any, Final

import orjson
from rich.console import Console

from app.cli.client import Client
from app.cli.columns import align
from app.cli.progress import counting, duration
from core.errors import StartRefused
from core.jobs.status import TERMINAL, JobStatus

POLL_S: Final = 0.5


class Outcome(Enum):
    """How the command ended."""

    PASSED = auto()
    GATE_FAILED = auto()
    CANCELLED = auto()


def body_of(
    models: Sequence[str],
    job: str | None,
    metrics: Sequence[str] | None,
    gates: Sequence[str] | None,
    *,
    max_rows: int | None,
    max_tokens: int | None,
    prompt_format: Path | None,
) -> dict[str, Any]:
    """Give the request's fields, but for the file: those that were asked for.

    Raises:
        StartRefused: the prompt format is no JSON.
    """
    given = {
        "job": job,
        "metrics": metrics or None,
        "gate": gates or None,
        "max_rows": max_rows,
        "sampling": None if max_tokens is None else {"max_tokens": max_tokens},
        "prompt_format": None if prompt_format is None else _json_of(prompt_format),
    }
    return {"models": list(models)} | {name: value for name, value in given.items() if value is not None}


def _json_of(path: Path) -> Any:
    try:
        return orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise StartRefused(f"{path} is no JSON: {error}") from error


def run_evaluation(client: Client, body: Mapping[str, Any], file: Path | None, *, as_json: bool) -> Outcome:
    """Queue an evaluation, wait for its end, and print it; an interrupt cancels it.

    A gate has to be passed by every model that is compared with the first, or by the only one.

    Args:
        body: the request's fields; those of the file are added.
        file: to be uploaded; None: ``body`` names a job.

    Raises:
        StartRefused: the API refuses it, or does not answer.
    """
    console = Console(stderr=True)
    asked = dict(body) if file is None else {**body, "file": client.upload(file)}
    evaluation = client.create_evaluation(asked)
    console.print(f"evaluation {evaluation['id']}: {evaluation['rows']:,} rows", highlight=False)
    try:
        evaluation = _wait(client, evaluation["id"], console)
    except KeyboardInterrupt:
        evaluation = client.cancel_evaluation(evaluation["id"])
    if evaluation["status"] == JobStatus.FAILED:
        raise StartRefused(f"evaluation {evaluation['id']} failed: {evaluation['error']['message']}")
    if evaluation["status"] != JobStatus.SUCCEEDED:
        console.print("cancelled", highlight=False)
        return Outcome.CANCELLED
    print(orjson.dumps(evaluation, option=orjson.OPT_INDENT_2).decode() if as_json else report(evaluation))
    return Outcome.PASSED if _are_passed(evaluation) else Outcome.GATE_FAILED


def report(evaluation: Mapping[str, Any]) -> str:
    """Write an ended evaluation for people: a table of means with intervals, the verdicts, and the gates."""
    result = evaluation["result"]
    models = result["models"]
    header = ["", *(model["model"] for model in models)]
    rows = [
        [name, *(_mean(model["scores"][place]) for model in models)] for place, name in enumerate(evaluation["metrics"])
    ]
    parts = [align([header, *rows]), result["text"]]
    parts += map(_changes, result["changes"])
    parts += [f"{gate['model']}: {gate['text']}" for gate in result["gates"]]
    parts += [each["text"] for each in result["memory"]]
    if result["too_long"]:
        parts.append(f"{result['too_long']:,} rows were too long to be asked.")
    if result["unchecked_models"]:
        parts.append(f"Not known is what {', '.join(result['unchecked_models'])} was trained on.")
    parts.append(f"Every answer: /v1/files/{evaluation['result_files'][0]}/content")
    return "\n\n".join(parts)


def _changes(changes: Mapping[str, Any]) -> str:
    return (
        f"{changes['model']} against {changes['against']}, by {changes['metric']}: {changes['improved']:,} rows "
        f"better, {changes['regressed']:,} worse, {changes['unchanged']:,} alike{_lines_of(changes['most_regressed'])}"
    )


def _wait(client: Client, evaluation_id: str, console: Console) -> dict[str, Any]:
    with counting(console, "answers") as show:
        while True:
            evaluation = client.evaluation(evaluation_id)
            if evaluation["status"] in TERMINAL:
                return evaluation
            progress = evaluation["progress"] or {}
            show(progress.get("answers", 0), progress.get("total_answers"), _facts(evaluation, progress))
            time.sleep(POLL_S)


def _facts(evaluation: Mapping[str, Any], progress: Mapping[str, Any]) -> str:
    if progress.get("waits_for"):
        return str(progress["waits_for"])
    if evaluation["status"] == JobStatus.QUEUED:
        reason, place = evaluation["waiting_reason"], evaluation["queue_position"]
        return str(reason or f"waiting for a worker, place {place}")
    return f"{duration(progress['eta_s'])} left" if progress.get("eta_s") is not None else "starting"


def _are_passed(evaluation: Mapping[str, Any]) -> bool:
    models: Sequence[str] = evaluation["models"]
    judged = set(models[1:] or models)
    return all(gate["passed"] for gate in evaluation["result"]["gates"] if gate["model"] in judged)


def _mean(score: Mapping[str, Any]) -> str:
    if score["mean"] is None:
        return "–"
    interval = score["interval"]
    return f"{score['mean']:.3f}" + (f" [{interval['low']:.3f}, {interval['high']:.3f}]" if interval else "")


def _lines_of(rows: Sequence[Mapping[str, Any]]) -> str:
    return f" (most of all line {', '.join(str(row['line']) for row in rows)})" if rows else ""
