"""A preview in this process shows the ids, weights and reasons that the trainer uses."""

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from core.errors import ExampleInvalid, ExampleOverLength, InvalidParameter
from core.text.rendering import Reason
from loramill import Renderer

EXAMPLE = {"prompt": "Say cat:", "completion": " cat"}


def test_each_token_has_its_weight_and_the_reason_for_it(tiny_llama: Path) -> None:
    shown = Renderer.of(tiny_llama, {"prompt_loss_weight": 0.25}).preview(EXAMPLE)
    weights = {token.reason: token.weight for token in shown.tokens}
    assert weights[Reason.PROMPT] == 0.25
    assert weights[Reason.COMPLETION] == weights[Reason.END] == 1
    assert shown.text.startswith("Say cat: cat")
    assert shown.completion_tokens == 5


def test_defaults_are_a_jobs(tiny_llama: Path) -> None:
    renderer = Renderer.of(tiny_llama)
    assert (renderer.settings.prompt_loss_weight, renderer.settings.max_length) == (0, 256)
    assert renderer.preview(EXAMPLE).prompt_tokens == 8
    assert {token.weight for token in renderer.preview(EXAMPLE).tokens if token.reason is Reason.PROMPT} == {0}


def test_columns_are_shown_by_their_prompt_format(tiny_llama: Path) -> None:
    prompt_format = {"prompt": "Q: {{q}}\nA:", "completion": " {{a}}"}
    shown = Renderer.of(tiny_llama, {"prompt_format": prompt_format}).preview({"q": "cat?", "a": "yes"})
    assert shown.text.startswith("Q: cat?\nA: yes")


def test_what_a_job_would_be_refused_for_is_refused(tiny_llama: Path) -> None:
    with pytest.raises(ExampleInvalid, match="completion"):
        Renderer.of(tiny_llama).preview({"prompt": "Say cat:"})
    with pytest.raises(ExampleOverLength):
        Renderer.of(tiny_llama, {"max_length": 8, "over_length": "error"}).preview(EXAMPLE)
    with pytest.raises(InvalidParameter, match="256 tokens"):
        Renderer.of(tiny_llama, {"max_length": 300})
    with pytest.raises(ValidationError, match="prompt_weight"):
        Renderer.of(tiny_llama, {"prompt_weight": 1})


def test_looking_loads_no_model_library(tiny_llama: Path) -> None:
    code = (
        f"import sys; from loramill import Renderer; Renderer.of({str(tiny_llama)!r}).preview({EXAMPLE!r});"
        "print([name for name in ('torch', 'transformers', 'peft') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
