"""A deployment on each database."""

from pathlib import Path

import pytest

from core.store.db import Database
from core.store.references.recorded import open_recorded
from tests.core.store.references.deployment import StoreInUse


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def deployment(database: Database, folder: Path) -> StoreInUse:
    return StoreInUse(database, open_recorded(folder, database))
