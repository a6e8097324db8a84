"""The commands for models: export-model, import-model, push, card, and alias with its own.

Each imports what it runs when it runs, as ``app.cli.main`` says.
"""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import Json, Url, client_of

commands = typer.Typer()
aliases = typer.Typer(help="Names that stand for models, and can be moved.", no_args_is_help=True)
commands.add_typer(aliases, name="alias")

Reason = Annotated[str | None, typer.Option(help="Why, for the history.")]


@commands.command("export-model", no_args_is_help=True)
def export_model(
    model: Annotated[str, typer.Argument(help="A fine-tuned model, or a checkpoint.")],
    target: Annotated[Path, typer.Argument(help="Folder to make, or a file that ends in .tar.")],
    format_: Annotated[
        str | None,
        typer.Option("--format", help="peft, merged, gguf or vllm, made by a worker and tried; left out: as stored."),
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="Of --format merged: bf16 (if left out) or fp32.")] = None,
    type_: Annotated[
        str | None, typer.Option("--type", help="Of --format gguf: f16 (if left out), bf16, q8_0, or lora.")
    ] = None,
    url: Url = None,
) -> None:
    """Download a fine-tuned model as a folder that PEFT loads, or in a format that others load.

    Goes on with a download where an earlier try broke off.
    """
    from app.cli.models.export_model import export_model as export
    from app.cli.models.make_export import make_export

    if format_ is None and (dtype or type_):
        raise typer.BadParameter("--dtype and --type go with --format")
    with client_of(url) as client:
        if format_ is None:
            export(client, model, target)
            return
        asked = {"format": format_, "dtype": dtype, "type": type_}
        make_export(client, model, target, {name: value for name, value in asked.items() if value is not None})


@commands.command("import-model", no_args_is_help=True)
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

    with client_of(url) as client:
        send(client, source, base_model=base_model, prompt_format=prompt_format, suffix=suffix)


@commands.command(no_args_is_help=True)
def push(
    model: Annotated[str, typer.Argument(help="A fine-tuned model, or a checkpoint.")],
    repository: Annotated[str, typer.Argument(help="Of the hub, as owner/name; made where it is not there.")],
    private: Annotated[bool, typer.Option("--private", help="Make it private; one that is public is refused.")] = False,
    endpoint: Annotated[str | None, typer.Option(help="Address of the hub; left out: HF_ENDPOINT's.")] = None,
    url: Url = None,
) -> None:
    """Upload a fine-tuned model with its card to a hub of models; HF_TOKEN has to be set."""
    from app.cli.models.push import push as upload

    with client_of(url) as client:
        upload(client, model, repository, private=private, endpoint=endpoint)


@commands.command()
def card(
    model: Annotated[str, typer.Argument(help="Name of a fine-tuned model or of a checkpoint.")], url: Url = None
) -> None:
    """Print the card of a model, in Markdown: what it was trained on, how it scores, where it comes from."""
    with client_of(url) as client:
        typer.echo(client.card(model), nl=False)


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
    with client_of(url) as client:
        show_moved(client.set_alias(name, body), as_json=as_json)


@aliases.command("rollback", no_args_is_help=True)
def roll_back_alias(name: str, reason: Reason = None, url: Url = None, as_json: Json = False) -> None:
    """Let an alias stand again for what it stood for before; once more goes back one move further."""
    from app.cli.models.aliases import show_moved

    with client_of(url) as client:
        show_moved(client.roll_back_alias(name, reason), as_json=as_json)


@aliases.command("list")
def list_aliases(url: Url = None, as_json: Json = False) -> None:
    """List all aliases, and what they stand for."""
    from app.cli.models import aliases as commands

    with client_of(url) as client:
        commands.list_aliases(client, as_json=as_json)


@aliases.command("show", no_args_is_help=True)
def show_alias(name: str, url: Url = None, as_json: Json = False) -> None:
    """Show what an alias stands for, what its models answered, and who moved it when and why."""
    from app.cli.models import aliases as commands

    with client_of(url) as client:
        commands.show_alias(client, name, as_json=as_json)


@aliases.command("delete", no_args_is_help=True)
def delete_alias(name: str, reason: Reason = None, url: Url = None) -> None:
    """Let a name stand for nothing."""
    with client_of(url) as client:
        client.delete_alias(name, reason)
