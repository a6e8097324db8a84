"""Tokenizers for the tests of text: one whose ids are bytes, and the two of the built-in base models."""

from pathlib import Path

import pytest

from core.text.tokenizer import TextTokenizer
from tests.harness.models.byte_tokenizer import write_byte_tokenizer


@pytest.fixture(scope="session")
def byte_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    folder = tmp_path_factory.mktemp("byte-tokenizer")
    write_byte_tokenizer(folder)
    return TextTokenizer.from_folder(folder)


@pytest.fixture(scope="session")
def phi2(phi2_folder: Path) -> TextTokenizer:
    return TextTokenizer.from_folder(phi2_folder)


@pytest.fixture(scope="session")
def smollm2(smollm2_folder: Path) -> TextTokenizer:
    return TextTokenizer.from_folder(smollm2_folder)


@pytest.fixture(params=["byte_tokenizer", "phi2", "smollm2"])
def any_tokenizer(request: pytest.FixtureRequest) -> TextTokenizer:
    tokenizer: TextTokenizer = request.getfixturevalue(request.param)
    return tokenizer


@pytest.fixture(params=["byte_tokenizer", "smollm2"])
def chat_tokenizer(request: pytest.FixtureRequest) -> TextTokenizer:
    tokenizer: TextTokenizer = request.getfixturevalue(request.param)
    return tokenizer
