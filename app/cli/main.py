"""The `loramill` command: its subcommands and their options.

Each command imports what it runs when it runs, so that ``--help`` is instant and loads no model
library, web framework or database. What a command does is the module it calls.
"""

import errno
import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from app.cli.jobs.commands import commands as job_commands
from app.cli.models.commands import commands as model_commands
from app.cli.openai_import.commands import commands as openai_commands
from app.cli.options import EXIT_FAILED, EXIT_MISUSE, BaseModelName, ExamplesFile, Json
from app.cli.render_options import RenderingCommand, asked_rendering
from app.cli.scores.commands import commands as score_commands
from app.cli.storage.commands import commands as storage_commands
from core.errors import ServiceError, SettingsInvalid

REFUSALS = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EIO})

app = typer.Typer(
    name="loramill",
    help="Fine-tune small language models over HTTP, and serve the result.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
base_models = typer.Typer(help="The base models of this machine.", no_args_is_help=True)
app.add_typer(base_models, name="base-models")
for commands in (score_commands, job_commands, model_commands, storage_commands, openai_commands):
    app.add_typer(commands)


def cli() -> None:
    """Run the command line; an error meant for people becomes one line on stderr and an exit status."""
    try:
        app()
    except ServiceError as error:
        typer.echo(f"loramill: {error}", err=True)
        sys.exit(EXIT_MISUSE if isinstance(error, SettingsInvalid) else EXIT_FAILED)
    except OSError as error:
        # the machine's refusals are for people too; without a file's name it may be a mistake of ours
        if error.filename is None or error.errno not in REFUSALS:
            raise
        typer.echo(f"loramill: {error.filename} cannot be used: {error.strerror}", err=True)
        sys.exit(EXIT_FAILED)


@app.command()
def up() -> None:
    """Run the whole service on this machine until Ctrl-C: broker, engines, worker and API."""
    from app.cli.config import read_settings
    from app.cli.stack.stack import run_stack

    run_stack(read_settings())


@app.command()
def api() -> None:
    """Run the API alone."""
    from app.cli.config import read_settings
    from app.server import run
    from core.process.logs import setup
    from core.process.privacy import keep_home_to_owner

    settings = read_settings()
    setup(settings, "api")
    keep_home_to_owner(settings)
    run(settings)


@app.command()
def worker() -> None:
    """Run a worker alone; it takes jobs from the database."""
    from app.cli.config import read_settings

    read_settings()
    become("-m", "worker")


@app.command()
def engine(
    base_model: Annotated[str, typer.Option(help="Base model that it holds.")],
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="TCP port to listen on.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on, with --port.")] = "127.0.0.1",
    uds: Annotated[Path | None, typer.Option(help="Unix socket to listen on, instead of --port.")] = None,
) -> None:
    """Run an inference engine alone, for one base model."""
    from app.cli.config import read_settings

    read_settings()
    if (port is None) == (uds is None):
        raise typer.BadParameter("give either --port or --uds")
    where = ["--uds", str(uds)] if uds else ["--host", host, "--port", str(port)]
    become("-m", "worker.inference", "--base-model", base_model, *where)


@app.command()
def migrate() -> None:
    """Bring the database to this version's tables."""
    from app.cli.config import read_settings
    from core.process.privacy import keep_home_to_owner
    from core.store.migrate import upgrade

    settings = read_settings()
    keep_home_to_owner(settings)
    upgrade(settings.database)


@app.command()
def demo(
    examples: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Folder with train.jsonl and heldout.jsonl.")
    ] = None,
) -> None:
    """Train on the example data, and show answers before and after."""
    from app.cli.config import read_settings
    from app.cli.demo import run_demo

    run_demo(read_settings(), examples)


@app.command(cls=RenderingCommand)
def lint(
    context: typer.Context,
    file: ExamplesFile,
    model: BaseModelName = None,
    validation: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="Held-out examples.")] = None,
    as_json: Json = False,
) -> None:
    """Check a file of training examples without a server; exit 1 when a job with it would fail."""
    from app.cli.config import read_settings
    from app.cli.lint import run_lint

    current = read_settings()
    base_model = model or current.base_models[0]
    if not run_lint(current, base_model, asked_rendering(context), file, validation, as_json=as_json):
        raise typer.Exit(EXIT_FAILED)


@app.command(cls=RenderingCommand)
def preview(
    context: typer.Context,
    file: ExamplesFile,
    model: BaseModelName = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many examples.")] = 10,
    after_line: Annotated[int, typer.Option(min=0, help="Begin with the example after this line.")] = 0,
    html: Annotated[Path | None, typer.Option(dir_okay=False, help="Also write it as a page to this file.")] = None,
    as_json: Json = False,
) -> None:
    """Show what a job would train on, token by token, without a server."""
    from app.cli.config import read_settings
    from app.cli.preview import run_preview

    current = read_settings()
    base_model, asked = model or current.base_models[0], asked_rendering(context)
    run_preview(current, base_model, asked, file, limit=limit, after_line=after_line, html=html, as_json=as_json)


@app.command()
def doctor(
    as_json: Json = False,
    deep: Annotated[bool, typer.Option("--deep", help="Also read all stored bytes and the whole database.")] = False,
) -> None:
    """Check this machine and its set-up; exit 1 when something must be mended."""
    from app.cli.checks.doctor import report
    from app.cli.config import read_settings

    if not report(read_settings(), as_json, deep=deep):
        raise typer.Exit(EXIT_FAILED)


@app.command()
def settings(
    as_json: Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print docs/settings.md.")] = False,
) -> None:
    """Show each setting, its value and where that comes from."""
    from app.cli import settings_report
    from app.cli.config import read_settings

    if markdown:
        typer.echo(settings_report.markdown(), nl=False)
    else:
        typer.echo(settings_report.show(read_settings(), as_json))


@base_models.command("list")
def list_base_models(as_json: Json = False) -> None:
    """List the base models of the registry, and which are imported."""
    from app.cli.base_models import show
    from app.cli.config import read_settings

    typer.echo(show(read_settings(), as_json))


@base_models.command("add")
def add_base_model(
    name: Annotated[str, typer.Argument(help="Name under which clients ask for it.")],
    hub: Annotated[str | None, typer.Option(help="Repository on the Hugging Face hub; needs --revision.")] = None,
    revision: Annotated[str | None, typer.Option(help="Commit of the repository, 40 hex digits.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Folder on this machine, instead of --hub.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help='What a job\'s "auto" becomes.')] = None,
) -> None:
    """Add a base model to this deployment's base_models.toml."""
    from app.cli.base_models import add
    from app.cli.config import read_settings

    add(read_settings(), name, hub=hub, revision=revision, folder=folder, learning_rate=learning_rate)


@base_models.command("import")
def import_base_models(names: Annotated[list[str], typer.Argument(help="Names in the registry.")]) -> None:
    """Bring base models' files into the home folder; does nothing for those already there."""
    from app.cli.config import read_settings
    from app.cli.stack.preparation import import_model
    from core.process.privacy import keep_home_to_owner

    current = read_settings()
    keep_home_to_owner(current)
    for name in names:
        import_model(current.base_models_folder, name)


@base_models.command("verify")
def verify_base_models(
    names: Annotated[list[str] | None, typer.Argument(help="Imported base models; none named: all.")] = None,
    as_json: Json = False,
) -> None:
    """Read imported base models' files and compare them with their fingerprints; exit 1 on a difference."""
    from app.cli.base_models import verify
    from app.cli.config import read_settings

    if not verify(read_settings(), names or [], as_json):
        raise typer.Exit(EXIT_FAILED)


def become(*arguments: str) -> NoReturn:
    """Replace this process by another Python program, which then gets its signals."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *arguments])
