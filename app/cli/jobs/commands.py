"""The commands that look back at a job: manifest, rerun.

Each imports what it runs when it runs, as ``app.cli.main`` says.
"""

from typing import Annotated

import typer

from app.cli.options import EXIT_FAILED, Json, Url, client_of

commands = typer.Typer()

JobId = Annotated[str, typer.Argument(help="Id of a fine-tuning job.")]


@commands.command()
def manifest(job: JobId, url: Url = None, as_json: Json = False) -> None:
    """Show a job's birth certificate: its data, settings and where each is from, base model, libraries, machines."""
    from app.cli.jobs.manifest import run_manifest

    with client_of(url) as client:
        run_manifest(client, job, as_json=as_json)


@commands.command()
def rerun(job: JobId, url: Url = None, as_json: Json = False) -> None:
    """Make a job again that has succeeded, and wait; exit 1 unless its adapter's weights are the same bits."""
    from app.cli.jobs.rerun import RerunEnd, run_rerun

    with client_of(url) as client:
        if run_rerun(client, job, as_json=as_json) is not RerunEnd.SAME:
            raise typer.Exit(EXIT_FAILED)
