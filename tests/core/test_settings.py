"""Settings that contradict each other."""

import pytest
from pydantic import ValidationError

from core.settings import Settings


def test_a_base_model_has_one_engine() -> None:
    ours, theirs = {"phi-2": "unix:///x.sock"}, {"phi-2": "http://gpu:8000", "other": "http://gpu:8001"}
    with pytest.raises(ValidationError, match="LORAMILL_ENGINE_URLS names an engine for phi-2 too; keep one"):
        Settings(engine_urls=ours, vllm_urls=theirs)
    assert Settings(engine_urls=ours, vllm_urls={"other": "http://gpu:8001"}).vllm_urls == {"other": "http://gpu:8001"}


def test_a_vllm_server_is_reached_by_http() -> None:
    with pytest.raises(ValidationError, match="the URL for phi-2 must begin with http://"):
        Settings(vllm_urls={"phi-2": "gpu:8000"})
