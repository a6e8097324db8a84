"""The `loramill` command: its subcommands and their options.

Each command imports what it runs when it runs, so that ``--help`` is instant and loads no model
library, web framework or database. What a command does is the module it calls.
"""

import errno
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from app.cli.render_options import RenderingCommand, asked_rendering
from core.errors import ServiceError, SettingsInvalid

if TYPE_CHECKING:
    from app.cli.client import Client

EXIT_FAILED = 1
EXIT_MISUSE = 2
EXIT_CANCELLED = 3
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
aliases = typer.Typer(help="Names that stand for models, and can be moved.", no_args_is_help=True)
app.add_typer(aliases, name="alias")

Url = Annotated[str | None, typer.Option(help="Address of the API; left out: that of this machine's settings.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]

JobId = Annotated[str, typer.Argument(help="Id of a fine-tuning job.")]
ExamplesFile = Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="File of examples.")]
Reason = Annotated[str | None, typer.Option(help="Why, for the history.")]
BaseModelName = Annotated[str | None, typer.Option(help="Base model; left out: the first that is served.")]


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


@app.command(no_args_is_help=True)
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
    with _client(url) as client:
        outcome = run_evaluation(client, body, file, as_json=as_json)
    if outcome is not Outcome.PASSED:
        raise typer.Exit(EXIT_CANCELLED if outcome is Outcome.CANCELLED else EXIT_FAILED)


@app.command(no_args_is_help=True)
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

    with _client(url) as client:
        run_comparison(client, models, prompt, reference, max_tokens=max_tokens, as_json=as_json)


@app.command()
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
    with _client(url) as client:
        run_experiment(client, options, dry_run=dry_run, as_json=as_json)


@app.command("export-model", no_args_is_help=True)
def export_model(
    model: Annotated[str, typer.Argument(help="A fine-tuned model, or a checkpoint.")],
    target: Annotated[Path, typer.Argument(help="Folder to make, or a file that ends in .tar.")],
    url: Url = None,
) -> None:
    """Download a fine-tuned model as a folder that PEFT loads; goes on where an earlier try broke off."""
    from app.cli.models.export_model import export_model as export

    with _client(url) as client:
        export(client, model, target)


@app.command("import-model", no_args_is_help=True)
def import_model(
    source: Annotated[Path, typer.Argument(exists=True, help="Folder that PEFT saved, or a tar, tar.gz or zip of it.")],
    base_model: Annotated[
        str | None, typer.Option(help="That it was trained from; left out: its manifest tells.")
    ] = None,
    prompt_format: Annotated[
        str | None, typer.Option(metavar="JSON_FILE|raw", help="How its prompts are written; left out: as above.")
    ] = None,
    suffix: Annotated[str | None, typer.Option(help="Part of the model's name.")] = None,
    url: Url = None,
) -> None:
    """Make a model of a LoRA adapter that was trained elsewhere, verified as those that were trained here."""
    from app.cli.models.import_model import import_model as send

    with _client(url) as client:
        send(client, source, base_model=base_model, prompt_format=prompt_format, suffix=suffix)


@app.command()
def manifest(job: JobId, url: Url = None, as_json: Json = False) -> None:
    """Show a job's birth certificate: its data, settings and where each is from, base model, libraries, machines."""
    from app.cli.jobs.manifest import run_manifest

    with _client(url) as client:
        run_manifest(client, job, as_json=as_json)


@app.command()
def rerun(job: JobId, url: Url = None, as_json: Json = False) -> None:
    """Make a job again that has succeeded, and wait; exit 1 unless its adapter's weights are the same bits."""
    from app.cli.jobs.rerun import RerunEnd, run_rerun

    with _client(url) as client:
        if run_rerun(client, job, as_json=as_json) is not RerunEnd.SAME:
            raise typer.Exit(EXIT_FAILED)


@app.command()
def card(
    model: Annotated[str, typer.Argument(help="Name of a fine-tuned model or of a checkpoint.")], url: Url = None
) -> None:
    """Print the card of a model, in Markdown: what it was trained on, how it scores, where it comes from."""
    with _client(url) as client:
        typer.echo(client.card(model), nl=False)


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
def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be freed, and free nothing.")] = False,
    at_once: Annotated[bool, typer.Option("--now", help="Free without the grace, LORAMILL_GC_GRACE_H.")] = False,
    audit: Annotated[bool, typer.Option("--audit", help="Compare store and database; exit 1 if they differ.")] = False,
    repair: Annotated[bool, typer.Option("--repair", help="With --audit: mend what can be mended.")] = False,
    as_json: Json = False,
) -> None:
    """Free the stored bytes that no file, model or unfinished job refers to any more."""
    from app.cli.config import read_settings
    from app.cli.gc import StoreCleaner

    if repair and not audit:
        raise typer.BadParameter("--repair goes with --audit")
    cleaner = StoreCleaner(read_settings(), at_once=at_once, as_json=as_json)
    if audit:
        if not cleaner.audit(repair=repair):
            raise typer.Exit(EXIT_FAILED)
        return
    cleaner.free(dry_run=dry_run)


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


@aliases.command("set", no_args_is_help=True)
def set_alias(
    name: Annotated[str, typer.Argument(help="As support-bot@prod.")],
    model: Annotated[str, typer.Argument(help="That it is to stand for.")],
    canary: Annotated[str | None, typer.Option(help="A second model, that answers some of the callers.")] = None,
    percent: Annotated[int | None, typer.Option(min=1, max=99, help="Of the callers, with --canary.")] = None,
    evaluation: Annotated[str | None, typer.Option(help="Move only if this ended one's gates are passed.")] = None,
    gate: Annotated[list[str] | None, typer.Option(help="With --evaluation: these in the place of its own.")] = None,
    reason: Reason = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Let a name stand for a model, or move it to another one; exit 1 where the gate fails."""
    from app.cli.models.aliases import body_of, show_moved

    if (canary is None) != (percent is None):
        raise typer.BadParameter("--canary and --percent go together")
    if gate and evaluation is None:
        raise typer.BadParameter("--gate goes with --evaluation")
    body = body_of(model, canary=canary, percent=percent, evaluation=evaluation, gates=gate or (), reason=reason)
    with _client(url) as client:
        show_moved(client.set_alias(name, body), as_json=as_json)


@aliases.command("rollback", no_args_is_help=True)
def roll_back_alias(name: str, reason: Reason = None, url: Url = None, as_json: Json = False) -> None:
    """Let an alias stand again for what it stood for before; once more goes back one move further."""
    from app.cli.models.aliases import show_moved

    with _client(url) as client:
        show_moved(client.roll_back_alias(name, reason), as_json=as_json)


@aliases.command("list")
def list_aliases(url: Url = None, as_json: Json = False) -> None:
    """List all aliases, and what they stand for."""
    from app.cli.models import aliases as commands

    with _client(url) as client:
        commands.list_aliases(client, as_json=as_json)


@aliases.command("show", no_args_is_help=True)
def show_alias(name: str, url: Url = None, as_json: Json = False) -> None:
    """Show what an alias stands for, what its models answered, and who moved it when and why."""
    from app.cli.models import aliases as commands

    with _client(url) as client:
        commands.show_alias(client, name, as_json=as_json)


@aliases.command("delete", no_args_is_help=True)
def delete_alias(name: str, reason: Reason = None, url: Url = None) -> None:
    """Let a name stand for nothing."""
    with _client(url) as client:
        client.delete_alias(name, reason)


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


def _client(url: str | None) -> "Client":
    from app.cli.client import Client
    from app.cli.config import read_settings
    from app.cli.stack.address import openable_url

    current = read_settings()
    key = current.api_key.get_secret_value() if current.api_key else None
    return Client(url or openable_url(current), key)


def become(*arguments: str) -> NoReturn:
    """Replace this process by another Python program, which then gets its signals."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *arguments])
