"""Where the API agrees to listen."""

import functools
from pathlib import Path

import pytest
from pydantic import SecretStr

from app.server import run, uvicorn_config
from core.errors import SettingsInvalid
from core.listening.protocol import GuardedProtocol
from core.settings import Settings


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "::1", "localhost"])
def test_loopback_needs_no_key(tmp_path: Path, host: str) -> None:
    assert uvicorn_config(Settings(home=tmp_path, host=host)).host == host


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])
def test_other_addresses_are_refused_without_a_key(tmp_path: Path, host: str) -> None:
    with pytest.raises(SettingsInvalid, match="LORAMILL_API_KEY"):
        uvicorn_config(Settings(home=tmp_path, host=host))
    assert uvicorn_config(Settings(home=tmp_path, host=host, api_key=SecretStr("k" * 16))).host == host


def test_headers_are_bounded_and_shutdown_ends(tmp_path: Path) -> None:
    config = uvicorn_config(Settings(home=tmp_path))
    assert isinstance(config.http, functools.partial)
    assert config.http.func is GuardedProtocol
    assert config.h11_max_incomplete_event_size == 16_384
    assert config.timeout_graceful_shutdown == 20
    assert not config.server_header


def test_a_start_that_fails_is_not_taken_for_an_end(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="3"):
        run(Settings(home=tmp_path))  # its database was never migrated
