"""The commands by which models are judged: evaluate, compare, experiment.

Each imports what it runs when it runs, as ``app.cli.main`` says.
"""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import EXIT_CANCELLED, EXIT_FAILED, BaseModelName, ExamplesFile, Json, Url, client_of

commands = typer.Typer()


@commands.command(no_args_is_help=True)
def evaluate(
    arguments: Annotated[list[str], typer.Argument(metavar="MODEL... [FILE]", help="Models; a file of rows.")],
    job: Annotated[str | None, typer.Option(help="Ask what this job held out, in the place of a file.")] = None,
    metric: Annotated[list[str] | None, typer.Option(help="Name of a metric; several times for several.")] = None,
    gate: Annotated[list[str] | None, typer.Option(help='As "exact_match >= 0.9"; exit 1 where it fails.')] = None,
    max_rows: Annotated[int | None, typer.Option(min=2, help="Of the rows, chosen by their prompts.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Of an answer.")] = None,
    prompt_format: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, metavar="JSON_FILE", help="What columns become.")
    ] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Have models answer the rows of a file, and compare each with the first; Ctrl-C cancels, with exit 3."""
    from app.cli.scores.evaluate import Outcome, body_of, run_evaluation

    models, file = (arguments, None) if job is not None else (arguments[:-1], Path(arguments[-1]))
    if file is not None and not file.is_file():
        raise typer.BadParameter(f"{file} is no file; name the models, then a file, or a job with --job")
    if not models:
        raise typer.BadParameter("name at least one model before the file")
    body = body_of(models, job, metric, gate, max_rows=max_rows, max_tokens=max_tokens, prompt_format=prompt_format)
    with client_of(url) as client:
        outcome = run_evaluation(client, body, file, as_json=as_json)
    if outcome is not Outcome.PASSED:
        raise typer.Exit(EXIT_CANCELLED if outcome is Outcome.CANCELLED else EXIT_FAILED)


@commands.command(no_args_is_help=True)
def compare(
    models: Annotated[list[str], typer.Argument(help="Names of models.")],
    prompt: Annotated[str, typer.Option(help="What they are to answer.")],
    reference: Annotated[str | None, typer.Option(help="An answer of which each says how likely it is.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of an answer.")] = 128,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Show what models answer to one prompt, greedily and side by side, and how likely each holds a reference."""
    from app.cli.scores.compare import run_comparison

    with client_of(url) as client:
        run_comparison(client, models, prompt, reference, max_tokens=max_tokens, as_json=as_json)


@commands.command()
def experiment(
    file: ExamplesFile,
    model: BaseModelName = None,
    weights: Annotated[str, typer.Option(help="Weights of the prompt's tokens to compare.")] = "0,0.1,1",
    seeds: Annotated[int, typer.Option(min=1, max=20, help="Trainings of each.")] = 3,
    judge: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="Rows to be judged by.")] = None,
    metric: Annotated[str | None, typer.Option(help="That verdicts go by; left out: nats_per_token.")] = None,
    margin: Annotated[float | None, typer.Option(help="A smaller difference does not matter.")] = None,
    tune: Annotated[bool, typer.Option("--tune", help="Also compare at each weight's best learning rate.")] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Train only what may still be the best further.")] = False,
    budget: Annotated[int | None, typer.Option(min=1, help="Seconds of training.")] = None,
    fields: Annotated[list[str] | None, typer.Option("--set", help="A field of the job, as lora.rank=8.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would take, and do nothing.")] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Ask which labels are right for a file: train it in several ways and compare them; Ctrl-C only stops watching."""
    from app.cli.config import read_settings
    from app.cli.scores.experiment import ExperimentOptions, read_fields, run_experiment

    try:
        parsed = tuple(float(weight) for weight in weights.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"{weights} is no list of numbers, as 0,0.1,1", param_hint="--weights") from error
    options = ExperimentOptions(
        file=file,
        model=model or read_settings().base_models[0],
        weights=parsed,
        seeds=seeds,
        judge=judge,
        metric=metric,
        margin=margin,
        tune=tune,
        prune=prune,
        budget_s=budget,
        fields=read_fields(fields or []),
    )
    with client_of(url) as client:
        run_experiment(client, options, dry_run=dry_run, as_json=as_json)
