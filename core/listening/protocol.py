"""HTTP/1.1 as uvicorn speaks it, with an end to clients that are silent, slow or too many.

uvicorn limits only how long a connection stays open after an answer, and forgets that as soon as a byte arrives.
"""

import asyncio
import functools
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from http import HTTPStatus
from typing import Any, Final, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from core.errors import RequestTooSlow, ServiceError, TooManyConnections
from core.listening.connections import Connections, network_of


@dataclass(frozen=True)
class TimeLimits:
    """How long a client may take, in seconds."""

    head_s: float = 10.0  # from a request's first byte, or the connection, to the end of its head
    idle_s: float = 5.0  # between two requests
    # An upload may take as long as it likes, but must not stand still: Apache's mod_reqtimeout has the same numbers.
    body_window_s: float = 20.0
    body_bytes_per_s: float = 500.0
    send_stall_s: float = 60.0  # without taking any of an answer
    linger_s: float = 5.0  # while the rest of a body is dropped that was answered before it was read


@dataclass(frozen=True)
class Guard:
    """What all connections of one server share. ``body_of`` writes an error as the server's clients read it."""

    connections: Connections
    body_of: Callable[[ServiceError], bytes]
    limits: TimeLimits = TimeLimits()

    @property
    def protocol(self) -> type[asyncio.Protocol]:
        """What uvicorn's configuration takes as ``http``."""
        return cast(type[asyncio.Protocol], functools.partial(GuardedProtocol, guard=self))


class _Phase(Enum):
    HEAD = auto()  # a request is to come, or its head is incomplete
    BODY = auto()  # its body is incomplete
    ANSWER = auto()  # all of it is here, and it is being answered
    LINGER = auto()  # it was answered, and the rest of its body is dropped, so that the client reads the answer
    IDLE = auto()  # between two requests


_WAITING: Final = frozenset({_Phase.HEAD, _Phase.LINGER, _Phase.IDLE})


class GuardedProtocol(H11Protocol):
    """One connection."""

    def __init__(self, *args: Any, guard: Guard, **named: Any) -> None:
        super().__init__(*args, **named)
        self.address: str | None = None
        self._guard = guard
        self._limits = guard.limits
        self._phase = _Phase.HEAD
        self._deadline: asyncio.TimerHandle | None = None
        self._send_deadline: asyncio.TimerHandle | None = None
        self._received_bytes = 0  # since the phase or the window began
        self._was_hungry = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.address = None if self.client is None else network_of(self.client[0])
        if self._guard.connections.admit(self):
            self._begin(_Phase.HEAD)
        else:
            self._answer_and_close(TooManyConnections())

    def connection_lost(self, exc: Exception | None) -> None:
        self._guard.connections.leave(self)
        self._cancel_deadlines()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._received_bytes += len(data)
        if self._phase is _Phase.IDLE:
            self._begin(_Phase.HEAD)
            self._received_bytes = len(data)
        super().data_received(data)
        self._follow()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._follow()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._send_deadline = self.loop.call_later(self._limits.send_stall_s, self._end_unread)

    def resume_writing(self) -> None:
        if self._send_deadline is not None:
            self._send_deadline.cancel()
        super().resume_writing()

    def abandon(self) -> None:
        """Close at once, without a word."""
        self._cancel_deadlines()
        self.transport.abort()

    def _follow(self) -> None:
        """Find out which phase the connection is in now."""
        if self.transport.is_closing():  # what the client does not read of the last answer must not hold it open
            self._arm(self._limits.send_stall_s, self.transport.abort)
            return
        state = self.conn.their_state
        if state is h11.IDLE:
            phase = _Phase.HEAD if self._phase is _Phase.HEAD else _Phase.IDLE
        elif state is h11.SEND_BODY:
            phase = _Phase.LINGER if self.cycle.response_complete else _Phase.BODY
        else:
            phase = _Phase.ANSWER
        if phase is not self._phase:
            self._begin(phase)

    def _begin(self, phase: _Phase) -> None:
        self._phase = phase
        self._received_bytes = 0
        connections = self._guard.connections
        (connections.wait if phase in _WAITING else connections.work)(self)
        if phase is _Phase.HEAD:
            self._arm(self._limits.head_s, self._end_head)
        elif phase is _Phase.BODY:
            self._was_hungry = self._is_hungry
            self._arm(self._limits.body_window_s, self._look_at_body)
        elif phase is _Phase.IDLE:
            self._arm(self._limits.idle_s, self._close)
        elif phase is _Phase.LINGER:
            self._arm(self._limits.linger_s, self._close)
        elif self._deadline is not None:
            self._deadline.cancel()

    @property
    def _is_hungry(self) -> bool:
        """Whether we wait for the client's next bytes, rather than it for us to take those that are here."""
        cycle = self.cycle
        return not (self.flow.read_paused or cycle.body or cycle.waiting_for_100_continue)

    def _look_at_body(self) -> None:
        """End a body that came too slowly in the last window, if nothing but the client was waited for."""
        enough_bytes = self._limits.body_bytes_per_s * self._limits.body_window_s
        if self._received_bytes < enough_bytes and self._was_hungry and self._is_hungry:
            self._guard.connections.tally.count("ended, as a body came too slowly")
            self._end_request()
            return
        self._received_bytes = 0
        self._was_hungry = self._is_hungry
        self._arm(self._limits.body_window_s, self._look_at_body)

    def _end_head(self) -> None:
        self._guard.connections.tally.count("ended, as no whole request came in time")
        if self._received_bytes:
            self._answer_and_close(RequestTooSlow())
        else:  # a browser may open a connection that it does not need in the end
            self._close()

    def _end_request(self) -> None:
        if self.cycle.response_started:
            self.abandon()
            return
        self.cycle.disconnected = True  # for the app the client has left
        self.cycle.message_event.set()
        self._answer_and_close(RequestTooSlow())

    def _end_unread(self) -> None:
        self._guard.connections.tally.count("ended, as the client did not read its answer")
        self.abandon()

    def _answer_and_close(self, error: ServiceError) -> None:
        body = self._guard.body_of(error)
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
            *([] if error.retry_after_s is None else [("retry-after", str(error.retry_after_s))]),
        ]
        reason = HTTPStatus(error.status).phrase.encode()
        head = h11.Response(status_code=error.status, headers=headers, reason=reason)
        for event in (head, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self._close()

    def _close(self) -> None:
        self.transport.close()
        self._arm(self._limits.linger_s, self.transport.abort)

    def _arm(self, after_s: float, act: Callable[[], None]) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(after_s, act)

    def _cancel_deadlines(self) -> None:
        for deadline in (self._deadline, self._send_deadline):
            if deadline is not None:
                deadline.cancel()
