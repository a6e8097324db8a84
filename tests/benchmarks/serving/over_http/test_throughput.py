from pathlib import Path

import pytest

from benchmarks.host.number_types import BOTH, NumberType
from benchmarks.serving.home import ServedHome
from benchmarks.serving.over_http.throughput import contenders


@pytest.mark.parametrize("dtype", BOTH)
def test_every_peer_is_told_the_number_type(dtype: NumberType, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    home = ServedHome(tmp_path / "home", base, "tiny")
    ours, *peers = contenders(home, {"a0": "ft:a0"}, tmp_path / "endless", Path("python"), dtype)
    assert not {*BOTH} & {*ours.server.command}
    assert len(peers) == 5
    for peer in peers:
        assert {*BOTH} & {*peer.server.command} == {dtype}
