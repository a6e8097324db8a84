"""A preview as one HTML page that needs nothing else: no script, no font, no image, no network."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from app.web.preview_words import MarkedRun, facts, runs, sentence, visible
from core.text.preview import Preview, PreviewedExample

# the default does not cover the last two
POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
# What a page that shows others' text is served with; a page's own <meta> cannot forbid frames.
HEADERS: Final[Mapping[str, str]] = {
    "content-security-policy": f"{POLICY}; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), clipboard-read=(), display-capture=(), geolocation=(), microphone=(), usb=()",
    "referrer-policy": "same-origin",
}


@dataclass(frozen=True, slots=True)
class _ExampleOnPage:
    line: int
    facts: str
    note: str | None
    runs: tuple[MarkedRun, ...]


def page(preview: Preview, *, model: str) -> str:
    """Write the page."""
    weight = preview.settings.prompt_loss_weight
    return _template().render(
        policy=POLICY,
        model=model,
        weight=f"{weight:g}",
        max_length=preview.settings.max_length,
        sentence=sentence(preview),
        examples=[_on_page(example, weight) for example in preview.examples],
        has_more=preview.has_more,
        visible=visible,
    )


def _on_page(example: PreviewedExample, prompt_loss_weight: float) -> _ExampleOnPage:
    return _ExampleOnPage(example.line, facts(example), example.note, tuple(runs(example, prompt_loss_weight)))


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("preview.html")
