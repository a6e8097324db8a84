"""The scenarios of `python -m tests.faults`, as tests."""

from pathlib import Path

import pytest

from tests.faults.scenario import Impossible
from tests.faults.scenarios import SCENARIOS


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", SCENARIOS)
def test_nothing_is_lost_doubled_or_trained_in_vain(name: str, tmp_path: Path) -> None:
    try:
        figures = SCENARIOS[name].run(tmp_path / "home")
    except Impossible as reason:
        pytest.skip(str(reason))
    assert (figures.lost, figures.doubled, figures.repeated) == (0, 0, 0)
