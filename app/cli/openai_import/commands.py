"""The command that makes a job of OpenAI's again: import-openai.

It imports what it runs when it runs, as ``app.cli.main`` says.
"""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import EXIT_CANCELLED, BaseModelName, Url, client_of

commands = typer.Typer()


@commands.command(no_args_is_help=True)
def import_openai(
    job: Annotated[str | None, typer.Argument(help="Id of a fine-tuning job at OpenAI.")] = None,
    folder: Annotated[
        Path | None, typer.Option("--from", exists=True, file_okay=False, help="Exports, in the place of an account.")
    ] = None,
    base_url: Annotated[str | None, typer.Option(help="Of the account's API; left out: OPENAI_BASE_URL's.")] = None,
    model: BaseModelName = None,
    answers: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="JSONL of prompts and stored answers; with --run.")
    ] = None,
    run: Annotated[bool, typer.Option("--run", help="Create the job, and wait for it.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what it would be; nothing is uploaded.")] = False,
    url: Url = None,
) -> None:
    """Make a fine-tuning job of an OpenAI account's again here: its files, and with --run the job itself."""
    from app.cli.config import read_settings
    from app.cli.openai_import.run import import_job
    from app.cli.openai_import.source import Account, ExportFolder
    from app.cli.scores.evaluate import Outcome

    if folder is None and job is None:
        raise typer.BadParameter("name a job, or a folder of exports with --from")
    if folder is not None and base_url is not None:
        raise typer.BadParameter("--from and --base-url exclude each other")
    if answers is not None and not (run or dry_run):
        raise typer.BadParameter("--answers goes with --run: there is nothing to evaluate before")
    source = Account(str(job), base_url) if folder is None else ExportFolder(folder, job)
    base_model = model or read_settings().base_models[0]
    with client_of(url) as client:
        outcome = import_job(client, source, base_model, answers=answers, run=run, dry_run=dry_run)
    if outcome is Outcome.CANCELLED:
        raise typer.Exit(EXIT_CANCELLED)
