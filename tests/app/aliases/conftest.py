"""An API whose base model an engine answers for, as evaluations need one."""

import pytest

from core.settings import Settings
from tests.app.conftest import BASE


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"engine_urls": {BASE: "http://127.0.0.1:1"}})
