"""The commands for what is stored on this machine: gc and disk.

Each imports what it runs when it runs, as ``app.cli.main`` says.
"""

from typing import Annotated

import typer

from app.cli.options import EXIT_FAILED, Json

commands = typer.Typer()


@commands.command()
def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be freed, and free nothing.")] = False,
    at_once: Annotated[bool, typer.Option("--now", help="Free without the grace, LORAMILL_GC_GRACE_H.")] = False,
    audit: Annotated[bool, typer.Option("--audit", help="Compare store and database; exit 1 if they differ.")] = False,
    repair: Annotated[bool, typer.Option("--repair", help="With --audit: mend what can be mended.")] = False,
    as_json: Json = False,
) -> None:
    """Free the stored bytes that no file, model or unfinished job refers to any more."""
    from app.cli.config import read_settings
    from app.cli.storage.gc import StoreCleaner

    if repair and not audit:
        raise typer.BadParameter("--repair goes with --audit")
    cleaner = StoreCleaner(read_settings(), at_once=at_once, as_json=as_json)
    if audit:
        if not cleaner.audit(repair=repair):
            raise typer.Exit(EXIT_FAILED)
        return
    cleaner.free(dry_run=dry_run)


@commands.command()
def disk(as_json: Json = False) -> None:
    """Show how many bytes there are on this machine, by what they are for."""
    from app.cli.config import read_settings
    from app.cli.storage.disk import report

    report(read_settings(), as_json=as_json)
