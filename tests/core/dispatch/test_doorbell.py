"""The doorbell with a real broker, with none, and with one that never answers."""

import json
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from core.dispatch.doorbell import MAX_WAITING_MESSAGES, QUEUE, TASK_NAME, Doorbell, celery_config
from core.settings import Settings
from tests.harness.servers.valkey import Valkey


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    with tempfile.TemporaryDirectory(prefix="loramill-") as folder, Valkey(Path(folder)) as valkey:
        yield valkey


def waiting_messages(valkey: Valkey) -> list[bytes]:
    with redis.Redis(unix_socket_path=valkey.url.removeprefix("redis+socket://")) as client:
        messages: list[bytes] = client.lrange(f"loramill:{QUEUE}", 0, -1)
        return messages


def test_a_message_names_the_task_and_carries_only_the_job_id(valkey: Valkey, tmp_path: Path) -> None:
    assert Doorbell(Settings(home=tmp_path, broker_url=valkey.url)).notify("ftjob-1")

    [message] = [json.loads(message) for message in waiting_messages(valkey)]
    assert message["headers"]["task"] == TASK_NAME
    assert message["headers"]["argsrepr"] == "['ftjob-1']"
    assert message["content-type"] == "application/json"


def test_messages_do_not_pile_up(valkey: Valkey, tmp_path: Path) -> None:
    doorbell = Doorbell(Settings(home=tmp_path, broker_url=valkey.url))
    for number in range(MAX_WAITING_MESSAGES + 5):
        assert doorbell.notify(f"ftjob-{number}")

    assert len(waiting_messages(valkey)) == MAX_WAITING_MESSAGES


def test_a_broker_that_came_back_empty_gets_messages_again(valkey: Valkey, tmp_path: Path) -> None:
    doorbell = Doorbell(Settings(home=tmp_path, broker_url=valkey.url))
    assert doorbell.notify("ftjob-1")
    valkey.kill()
    assert not doorbell.notify("ftjob-2")
    valkey.start()
    assert doorbell.notify("ftjob-3")


def test_a_refusing_port_is_no_error(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"redis://127.0.0.1:{unused.getsockname()[1]}/0"
    assert not Doorbell(Settings(home=tmp_path, broker_url=url)).notify("ftjob-1")


def test_a_silent_broker_holds_nobody_up(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        url = f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
        doorbell = Doorbell(Settings(home=tmp_path, broker_url=url), deadline_s=0.2)
        began_s = time.monotonic()
        sent = [doorbell.notify(f"ftjob-{number}") for number in range(20)]
        took_s = time.monotonic() - began_s

    assert not any(sent)
    # Only the first few wait at all. The sockets' own timeouts, which a message would wait for
    # without its deadline, would come to more than this many seconds.
    assert took_s < 20


def test_nothing_in_the_configuration_lets_a_broker_run_code_or_repeat_a_job(tmp_path: Path) -> None:
    config = celery_config(Settings(home=tmp_path))

    assert config["accept_content"] == ["json"]
    assert config["worker_enable_remote_control"] is False
    assert config["task_acks_late"] is False
    assert config["task_reject_on_worker_lost"] is False
    assert config["worker_cancel_long_running_tasks_on_connection_loss"] is False
