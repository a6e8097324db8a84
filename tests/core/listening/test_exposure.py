"""Where a process refuses to listen."""

import pytest
from pydantic import SecretStr

from core.errors import SettingsInvalid
from core.listening.exposure import refuse_unnamed, refuse_unprotected
from core.settings import Settings


def test_hosts_are_named_only_where_there_is_a_key() -> None:
    with pytest.raises(SettingsInvalid, match="LORAMILL_ALLOWED_HOSTS needs an API key"):
        refuse_unprotected(Settings(allowed_hosts=("loramill.example.org",)))
    refuse_unprotected(Settings(allowed_hosts=("loramill.example.org",), api_key=SecretStr("k" * 16)))


def test_an_engine_that_others_reach_must_know_its_names() -> None:
    for host in ("0.0.0.0", "::", "192.168.1.5"):
        with pytest.raises(SettingsInvalid, match="LORAMILL_ALLOWED_HOSTS"):
            refuse_unnamed(host, Settings())
        refuse_unnamed(host, Settings(allowed_hosts=("engine",)))
    refuse_unnamed("127.0.0.1", Settings())
