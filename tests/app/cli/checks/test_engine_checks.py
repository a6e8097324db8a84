"""What the doctor says of the engines of a running deployment, and of one that does not run."""

from urllib.parse import urlsplit

import pytest

from app.cli.checks.check_result import Status
from app.cli.checks.engine_checks import MEMORY, WEIGHTS, check_engines
from core.settings import Settings
from tests.app.conftest import BASE, ApiHarness, serving
from tests.harness.stub_engine import StubEngine


class ToldNumbersEngine(StubEngine):
    """An engine that tells these numbers."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text

    async def metrics(self) -> bytes:
        return self.text.encode()


def found_beside(harness: ApiHarness, engine: StubEngine) -> str:
    harness.engine = engine
    with serving(harness.app()) as url:
        found = check_engines(harness.settings.model_copy(update={"port": urlsplit(url).port}))
    assert found.status is Status.OK
    return found.found


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        (f"{MEMORY} 612000000\n{WEIGHTS} 270000000\n", "612 MB of memory, 270 MB of it weights"),
        (f"{WEIGHTS} 270000000\n", "its memory is not known"),
    ],
)
def test_an_engines_memory_is_told(harness: ApiHarness, numbers: str, said: str) -> None:
    assert found_beside(harness, ToldNumbersEngine(numbers)) == f"{BASE}: {said}"


def test_an_engine_that_tells_no_numbers_is_said_to_tell_none(harness: ApiHarness) -> None:
    assert found_beside(harness, StubEngine()) == f"{BASE}: its engine tells nothing (status 404)"


def test_without_an_api_no_engine_is_asked(settings: Settings) -> None:
    found = check_engines(settings.model_copy(update={"port": 9}))
    assert found.status is Status.OK
    assert "not asked" in found.found
