"""A lint of examples with the byte tokenizer, in which a character of ASCII is a token."""

from collections.abc import Callable
from typing import Any

import pytest

from core.text.lint.linter import Report, lint
from core.text.render_settings import RenderSettings
from core.text.rendering import Renderer
from core.text.tokenizer import TextTokenizer

Linting = Callable[..., Report]


@pytest.fixture
def linting(byte_tokenizer: TextTokenizer) -> Linting:
    """Lint with settings of a job; those left out are generous ones."""

    def run(examples: Any, *, validation: Any = None, **settings: Any) -> Report:
        return lint(examples, Renderer(byte_tokenizer, RenderSettings(**settings)), validation=validation)

    return run
