"""Which engine answers for which base model."""

import asyncio

import pytest

from app.engines.routing import Engines
from app.engines.vllm.engine import VllmEngine
from core.errors import EngineUnavailable
from core.serving.http_engine import HttpEngine
from tests.app.engines.conftest import BASE, Deployment


def test_each_base_model_has_the_engine_that_the_settings_name(deployment: Deployment) -> None:
    urls = {"engine_urls": {"phi-2": "unix:///x.sock"}, "vllm_urls": {BASE: "http://127.0.0.1:1"}}
    engines = Engines.connect(deployment.settings.model_copy(update=urls), deployment.blobs)
    assert isinstance(engines.get("phi-2"), HttpEngine)
    assert isinstance(engines.get(BASE), VllmEngine)
    with pytest.raises(EngineUnavailable, match="neither LORAMILL_ENGINE_URLS nor LORAMILL_VLLM_URLS"):
        engines.get("other")
    asyncio.run(engines.close())
