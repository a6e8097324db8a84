"""`import loramill` is instant, and every name that it offers is there."""

import subprocess
import sys

import pytest

import loramill
from loramill import renderer

HEAVY = ("torch", "transformers", "peft", "pydantic", "fastapi", "sqlalchemy", "core.settings", "worker.models")


def test_importing_it_loads_nothing_of_the_service() -> None:
    code = f"import sys, loramill; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_a_name_is_the_thing_itself_from_its_first_use() -> None:
    assert loramill.Renderer is renderer.BaseModelRenderer
    assert "Renderer" in vars(loramill)


@pytest.mark.parametrize("name", loramill.__all__)
def test_every_name_is_listed_and_there(name: str) -> None:
    assert name in dir(loramill)
    assert callable(getattr(loramill, name))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'loramill' has no attribute 'Trainer'"):
        _ = loramill.Trainer
