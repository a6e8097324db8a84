"""What the embedded stack's processes are told; running stacks are ``tests.on_stack.test_stack``."""

import json
import stat
import subprocess
import time
from pathlib import Path

from redis import Redis

from app.cli.stack.address import openable_url
from app.cli.stack.stack import child_environ, child_specs, valkey_command
from core.settings import Settings


def test_children_start_from_broker_to_api(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, base_models=("a", "b"))
    names = [spec.name for spec in child_specs(settings, tmp_path)]
    assert names == ["valkey", "engine-a", "engine-b", "worker", "api"]


def test_children_are_told_the_private_sockets(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", base_models=("a", "b"))
    environ = child_environ({"PATH": "/bin", "LORAMILL_PORT": "9"}, settings, tmp_path)
    assert environ["LORAMILL_BROKER_URL"] == f"redis+socket://{tmp_path}/valkey.sock"
    assert json.loads(environ["LORAMILL_ENGINE_URLS"]) == {
        "a": f"unix://{tmp_path}/engine-0.sock",
        "b": f"unix://{tmp_path}/engine-1.sock",
    }
    assert (environ["PATH"], environ["LORAMILL_PORT"]) == ("/bin", "9")
    assert (environ["HF_HUB_OFFLINE"], environ["DO_NOT_TRACK"]) == ("1", "1")


def test_no_engine_is_started_for_what_vllm_serves(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, base_models=("a", "b"), vllm_urls={"a": "http://gpu:8000"})
    assert [spec.name for spec in child_specs(settings, tmp_path)] == ["valkey", "engine-b", "worker", "api"]
    environ = child_environ({}, settings, tmp_path)
    assert json.loads(environ["LORAMILL_ENGINE_URLS"]) == {"b": f"unix://{tmp_path}/engine-0.sock"}


def test_the_printed_url_can_be_opened() -> None:
    assert openable_url(Settings(host="127.0.0.1", port=1)) == "http://127.0.0.1:1"
    assert openable_url(Settings(host="0.0.0.0", port=1)) == "http://127.0.0.1:1"
    assert openable_url(Settings(host="::", port=1)) == "http://[::1]:1"
    assert openable_url(Settings(host="box.example", port=1)) == "http://box.example:1"


def test_valkey_listens_on_a_private_socket_only_and_keeps_its_queue(tmp_path: Path) -> None:
    path = tmp_path / "valkey.sock"
    for expected in (None, b"kept"):
        process = subprocess.Popen(valkey_command(tmp_path / "data", path), stdout=subprocess.DEVNULL)
        try:
            with wait_for(path) as client:
                assert client.get("x") == expected
                client.set("x", "kept")
                config = client.config_get("*")
                assert (config["port"], config["appendonly"], config["maxmemory-policy"]) == ("0", "yes", "noeviction")
                assert stat.S_IMODE(path.stat().st_mode) == 0o700
        finally:
            process.terminate()
            process.wait(20)


def wait_for(path: Path) -> Redis:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return Redis(unix_socket_path=str(path))
