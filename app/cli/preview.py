"""`loramill preview`: what a job would train on in a local file, token by token, without a server."""

from itertools import chain
from pathlib import Path
from typing import Final

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from app.fine_tuning.preview_schemas import PreviewOut
from app.fine_tuning.renderers import renderer_for
from app.web.preview_page import page
from app.web.preview_words import LINE_END, Mark, MarkedRun, Unit, facts, runs, sentence, visible
from core.errors import InvalidInput
from core.settings import Settings
from core.text.files.examples import Columns, format_of
from core.text.files.file_type import HEAD_BYTES
from core.text.files.one_format import checked
from core.text.files.read import file_type_of
from core.text.format_check import check_format
from core.text.preview import Preview, preview
from core.text.render_settings import RenderFields

INDENT: Final = "  "
# The bar before each token tells its mark where there is neither colour nor underline.
_BARS: Final = {Mark.TRAINED: "┃", Mark.PARTLY: "│", Mark.UNTRAINED: "┊", Mark.CUT: "╳"}
_STYLES: Final = {
    Mark.TRAINED: "bold underline green",
    Mark.PARTLY: "underline cyan",
    Mark.UNTRAINED: "dim",
    Mark.CUT: "dim strike",
}


def run_preview(
    settings: Settings,
    model: str,
    asked: RenderFields,
    file: Path,
    *,
    limit: int,
    after_line: int,
    html: Path | None,
    as_json: bool,
) -> None:
    """Show a file's examples in the terminal, and write the page if wanted.

    Raises:
        InvalidInput: the file, one of its lines or an option is at fault.
        ExampleInvalid: an example cannot be rendered, so a job would fail.
        ExampleOverLength: an example is too long, and the job would fail over it.
        ModelNotFound: the deployment does not train this base model.
        BaseModelNotReady: the base model is not imported yet.
    """
    renderer = renderer_for(settings, model, asked)
    with file.open("rb") as content:
        file_type = file_type_of(file.name, content.read(HEAD_BYTES))
        content.seek(0)
        examples = checked(file_type.read(content, settings.max_line_bytes))
        first = next(examples, None)
        if first is None:
            raise InvalidInput(f"{file} holds no examples")
        columns = tuple(first.values) if isinstance(first, Columns) else ()
        check_format(asked, format_of(first), columns, name=str(file))
        later = (example for example in chain([first], examples) if example.line > after_line)
        found = preview(later, renderer, limit=limit)
    if html is not None:
        _write(html, page(found, model=model))
    if as_json:
        print(PreviewOut.of(model, found).model_dump_json(indent=2))
        return
    console = Console(highlight=False)
    console.print(show(found, console.width), soft_wrap=True)
    if html is not None:
        console.print(f"\nThe same as a page: {html}", soft_wrap=True)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise InvalidInput(f"{path} cannot be written: {error.strerror}") from error


def show(shown: Preview, width: int) -> Text:
    """Lay a preview out for a terminal of this many columns."""
    text = Text(sentence(shown), style="bold")
    for example in shown.examples:
        text.append(f"\n\nline {example.line:,}: {facts(example)}", style="not bold")
        if example.note:
            text.append(f"\n{INDENT}{example.note}", style="not bold italic")
        for run in runs(example, shown.settings.prompt_loss_weight):
            text.append_text(_run(run, width))
    if shown.has_more:
        text.append(f"\n\nMore examples follow: --after-line {shown.examples[-1].line}", style="not bold")
    return text


def _run(run: MarkedRun, width: int) -> Text:
    """Write a run as its label and, on lines of their own, its tokens, each with its bar."""
    text = Text(f"\n{INDENT}[{run.label}]", style="not bold")
    column = width  # so that the first token begins a line
    for unit in run.units:
        for index, line in enumerate(_lines(unit)):
            bar = "" if index else _BARS[run.mark]
            if index or column + cell_len(bar + line) > width:
                text.append(f"\n{INDENT}")
                column = len(INDENT)
            text.append(bar, style="dim")
            text.append(line, style=_STYLES[run.mark])
            column = width if line.endswith(LINE_END) else column + cell_len(bar + line)
    if run.unlisted:
        text.append(f" … {run.unlisted:,} more")
    return text


def _lines(unit: Unit) -> list[str]:
    """Give a token's text with white space made visible, cut behind its line ends."""
    text = "".join(piece.text + "\n" * piece.ends_line for piece in visible(unit.text))
    return text.removesuffix("\n").split("\n")
