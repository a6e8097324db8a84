"""`loramill import-openai`: makes a fine-tuning job of OpenAI's again here, and holds new answers against old ones."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import typer

from app.cli.client import Client
from app.cli.jobs.waiting import await_success
from app.cli.openai_import.answers import answers_as_rows
from app.cli.openai_import.plan import JobPlan, plan_job
from app.cli.openai_import.rows import TranslatedRows, translate_rows
from app.cli.openai_import.source import JobSource
from app.cli.scores.evaluate import Outcome, body_of, run_evaluation

_ANSWERS: Final = "answers.jsonl"


@dataclass(frozen=True)
class Translation:
    """A job's plan and its files as they are trained on here, by their field of the request."""

    plan: JobPlan
    files: Mapping[str, Path]
    rows: Mapping[str, TranslatedRows]

    @property
    def conversations(self) -> bool:
        return self.rows["training_file"].conversations > 0


def import_job(
    client: Client, source: JobSource, base_model: str, *, answers: Path | None, run: bool, dry_run: bool
) -> Outcome:
    """Show what a job is here, upload its files, and where it is to run, wait for it and its evaluation.

    Args:
        answers: JSONL of prompts and what the model at OpenAI answered; None: nothing is evaluated.

    Raises:
        StartRefused: the job or a file cannot be read or trained on here, or the API refuses or does not answer.
    """
    with tempfile.TemporaryDirectory(prefix="loramill-openai-") as folder:
        translation = translate(source, base_model, Path(folder))
        rows = Path(folder) / _ANSWERS
        if answers is not None:  # before anything is uploaded
            with answers.open("rb") as content:
                answers_as_rows(content, rows, conversations=translation.conversations)
        typer.echo("\n".join(_told(translation)))
        if dry_run:
            return Outcome.PASSED
        request = translation.plan.request | {name: client.upload(path) for name, path in translation.files.items()}
        if not run:
            told = json.dumps(request, indent=2)
            typer.echo(f"uploaded; --run starts this, as does POST /v1/fine_tuning/jobs:\n{told}")
            return Outcome.PASSED
        return _run(client, request, None if answers is None else rows)


def _run(client: Client, request: dict[str, Any], rows: Path | None) -> Outcome:
    """Create the job, wait for it, and have its model evaluated by rows."""
    job_id = client.create_job(request)
    typer.echo(f"job {job_id} is queued")
    model = await_success(client, client.job(job_id))["fine_tuned_model"]
    typer.echo(f"{model} can be asked")
    if rows is None:
        return Outcome.PASSED
    typer.echo("New answers against the stored ones, beside the base model's:")
    asked = [request["model"], model]
    body = body_of(asked, None, None, None, max_rows=None, max_tokens=None, prompt_format=None)
    return run_evaluation(client, body, rows, as_json=False)


def translate(source: JobSource, base_model: str, folder: Path) -> Translation:
    """Read a job and its files, and write the files as they are trained on here.

    Raises:
        StartRefused: they cannot be read, or cannot be trained on here.
    """
    plan = plan_job(source.job(), base_model)
    asked = {"training_file": plan.training_file, "validation_file": plan.validation_file}
    files, rows = {}, {}
    for name, file_id in asked.items():
        if file_id is None:
            continue
        theirs, files[name] = folder / f"{name}.theirs", folder / f"{plan.job_id}-{name}.jsonl"
        source.fetch(file_id, theirs)
        with theirs.open("rb") as content, files[name].open("wb") as target:
            rows[name] = translate_rows(file_id, content, target)
    return Translation(plan, files, rows)


def _told(translation: Translation) -> Iterator[str]:
    """Say what the job is here, and every difference."""
    plan = translation.plan
    yield f"{plan.job_id} of OpenAI's, here:"
    yield f"  model {plan.request['model']}"
    for name, rows in translation.rows.items():
        shape = "conversations" if rows.conversations else "prompts and completions"
        yield f"  {name} of {rows.rows:,} rows, {shape}"
    settings: dict[str, Any] = plan.request["hyperparameters"] | {
        name: plan.request[name] for name in ("seed", "suffix") if name in plan.request
    }
    yield from (f"  {name} {value}" for name, value in settings.items())
    yield "What is different:"
    yield from (f"  {each}" for each in plan.differences)
    for name, rows in translation.rows.items():
        yield from (f"  {name}: {change} ({count:,})" for change, count in rows.changes.items())
