"""Clients that are silent or slow, over real sockets, with limits of a fraction of a second."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import uvicorn

from core.errors import ServiceError
from core.listening.connections import Connections
from core.listening.protocol import Guard, TimeLimits

SHORT_S = 0.3
LONG_S = 60.0
ALL_LONG = TimeLimits(LONG_S, LONG_S, LONG_S, 1000.0, LONG_S, LONG_S)
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


class EchoApp:
    """Answers with the number of bytes of the body.

    At ``/refused`` without reading it, at ``/large`` with much, at ``/busy`` after it did something else first.
    """

    def __init__(self) -> None:
        self.disconnected = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/busy":
            await asyncio.sleep(4 * SHORT_S)
        size, more = 0, scope["path"] != "/refused"
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.disconnected.set()
                return
            size, more = size + len(message["body"]), message["more_body"]
        body = b"x" * 50_000_000 if scope["path"] == "/large" else str(size).encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


@contextmanager
def server(app: EchoApp, limits: TimeLimits, most: int = 100) -> Iterator[tuple[str, int]]:
    def body_of(error: ServiceError) -> bytes:
        return error.code.encode()

    protocol = Guard(Connections(most), body_of, limits).protocol
    alone: dict[str, Any] = {"log_config": None, "lifespan": "off", "timeout_keep_alive": 600}
    running = uvicorn.Server(uvicorn.Config(app, port=0, http=protocol, ws="none", **alone))
    thread = threading.Thread(target=running.run)
    thread.start()
    while not running.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield running.servers[0].sockets[0].getsockname()
    finally:
        running.should_exit = running.force_exit = True
        thread.join()


def until_closed(client: socket.socket) -> bytes:
    """Read until the server closes; a test that waits too long has failed."""
    received = b""
    try:
        while chunk := client.recv(65536):
            received += chunk
    except ConnectionResetError:
        pass
    return received


def answer(client: socket.socket, body: bytes) -> bytes:
    """Read an answer that ends so."""
    received = b""
    while not received.endswith(b"\r\n\r\n" + body):
        chunk = client.recv(65536)
        assert chunk, received
        received += chunk
    return received


@contextmanager
def connected(address: tuple[str, int]) -> Iterator[socket.socket]:
    with socket.create_connection(address, timeout=LONG_S / 2) as client:
        yield client


def test_a_silent_connection_is_closed_without_a_word() -> None:
    with server(EchoApp(), replace(ALL_LONG, head_s=SHORT_S)) as address, connected(address) as client:
        assert until_closed(client) == b""


def test_a_head_that_trickles_is_ended() -> None:
    with server(EchoApp(), replace(ALL_LONG, head_s=SHORT_S)) as address, connected(address) as client:
        client.sendall(GET[:20])
        assert until_closed(client).endswith(b"request_too_slow")


def test_a_second_head_that_trickles_is_ended() -> None:
    with server(EchoApp(), replace(ALL_LONG, head_s=SHORT_S)) as address, connected(address) as client:
        client.sendall(GET)
        answer(client, b"0")
        client.sendall(GET[:20])
        assert until_closed(client).startswith(b"HTTP/1.1 408")


def test_an_idle_connection_is_closed() -> None:
    with server(EchoApp(), replace(ALL_LONG, idle_s=SHORT_S)) as address, connected(address) as client:
        client.sendall(GET)
        assert until_closed(client).startswith(b"HTTP/1.1 200")


def post(length: int, path: str = "/", *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {length}", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


@pytest.mark.parametrize("sent", [10, 50_000])  # the latter is enough for many windows, and counts for its own
def test_a_body_that_stands_still_is_ended_and_the_app_is_told(sent: int) -> None:
    app = EchoApp()
    with server(app, replace(ALL_LONG, body_window_s=SHORT_S)) as address, connected(address) as client:
        client.sendall(post(100_000))
        time.sleep(SHORT_S / 3)  # what comes with the head is not counted
        client.sendall(b"x" * sent)
        assert until_closed(client).startswith(b"HTTP/1.1 408")
        assert app.disconnected.wait(LONG_S)


def test_the_app_is_told_though_the_client_reads_nothing_that_is_sent_to_it() -> None:
    app = EchoApp()
    with server(app, replace(ALL_LONG, body_window_s=SHORT_S)) as address, connected(address) as client:
        client.sendall(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n" + post(100_000) + b"x" * 10)
        assert app.disconnected.wait(LONG_S / 2)  # before the connection is given up


def trickle(client: socket.socket) -> None:
    deadline_s = time.monotonic() + LONG_S / 2
    while time.monotonic() < deadline_s:
        client.sendall(b"x")
        time.sleep(0.01)


def test_a_body_that_trickles_below_the_rate_is_ended() -> None:
    limits = replace(ALL_LONG, body_window_s=SHORT_S, body_bytes_per_s=10_000_000.0)
    with server(EchoApp(), limits) as address, connected(address) as client:
        client.sendall(post(100_000))
        with pytest.raises(OSError, match=r"Broken pipe|reset"):
            trickle(client)


def test_a_body_that_is_slow_and_keeps_the_rate_may_take_longer_than_any_limit() -> None:
    limits = TimeLimits(1.0, 1.0, 1.0, 10.0, 1.0, 1.0)
    with server(EchoApp(), limits) as address, connected(address) as client:
        client.sendall(post(800))
        for _ in range(16):
            client.sendall(b"x" * 50)
            time.sleep(0.2)
        answer(client, b"800")


def test_a_client_that_waits_for_leave_to_send_is_not_slow() -> None:
    limits = replace(ALL_LONG, body_window_s=SHORT_S)
    with server(EchoApp(), limits) as address, connected(address) as client:
        client.sendall(post(5, "/busy", "Expect: 100-continue"))
        assert client.recv(4096).startswith(b"HTTP/1.1 100")
        client.sendall(b"12345")
        answer(client, b"5")


def test_the_rest_of_a_refused_body_is_dropped_only_for_a_while() -> None:
    limits = replace(ALL_LONG, linger_s=SHORT_S)
    with server(EchoApp(), limits) as address, connected(address) as client:
        client.sendall(post(1_000_000, "/refused"))
        answer(client, b"0")
        with pytest.raises(OSError, match=r"Broken pipe|reset"):
            trickle(client)  # each byte ends uvicorn's own timer


def test_a_client_that_reads_nothing_of_its_answer_is_ended() -> None:
    limits = replace(ALL_LONG, send_stall_s=SHORT_S)
    with server(EchoApp(), limits) as address, connected(address) as client:
        client.sendall(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(4 * SHORT_S)
        assert len(until_closed(client)) < 50_000_000


def test_a_request_under_way_is_never_ended_for_a_newcomer() -> None:
    with server(EchoApp(), ALL_LONG, most=2) as address, connected(address) as one, connected(address) as other:
        for busy in (one, other):
            busy.sendall(post(10) + b"12345")
        time.sleep(SHORT_S)
        with connected(address) as late:
            refusal = until_closed(late)
            assert refusal.startswith(b"HTTP/1.1 503 Service Unavailable")
            assert refusal.endswith(b"too_many_connections")
            assert b"retry-after: 1" in refusal
        for busy in (one, other):
            busy.sendall(b"67890")
            answer(busy, b"10")


def test_a_newcomer_takes_the_place_of_a_silent_one() -> None:
    with server(EchoApp(), ALL_LONG, most=2) as address, connected(address) as one, connected(address):
        time.sleep(SHORT_S)
        with connected(address) as late:
            late.sendall(GET)
            answer(late, b"0")
        assert until_closed(one) == b""


def test_one_that_left_in_the_middle_of_its_body_leaves_its_place() -> None:
    app = EchoApp()
    with server(app, ALL_LONG, most=2) as address:
        for _ in range(2):
            with connected(address) as leaving:
                leaving.sendall(post(10) + b"12345")
                leaving.shutdown(socket.SHUT_WR)
                until_closed(leaving)
        with connected(address) as client:
            client.sendall(GET)
            answer(client, b"0")
