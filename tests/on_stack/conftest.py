"""A whole stack for the tests of one module, and the official client of it."""

from collections.abc import Iterator

import pytest
from openai import OpenAI

from tests.harness.servers.stack import Stack, running_stack


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(tmp_path_factory.mktemp("stack")) as stack:
        yield stack


@pytest.fixture(scope="module")
def client(stack: Stack) -> Iterator[OpenAI]:
    with stack.client() as client:
        yield client
