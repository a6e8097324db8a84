"""Who may be under way at a vLLM server."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from app.engines.vllm_admission import Admission
from core.errors import EngineBusy


class Visits:
    """Requests that hold their place until they are told to leave, in the order in which they began."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self.begun: list[str] = []
        self._leave: dict[str, asyncio.Event] = {}

    async def visit(self, name: str, caller: str) -> None:
        self._leave[name] = asyncio.Event()
        async with self._admission.turn(caller):
            self.begun.append(name)
            await self._leave[name].wait()

    async def end(self, name: str) -> None:
        self._leave[name].set()
        await settle()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def start(*visits: Coroutine[Any, Any, None]) -> list[asyncio.Task[None]]:
    tasks = []
    for visit in visits:
        tasks.append(asyncio.create_task(visit))
        await settle()
    return tasks


def test_callers_take_turns_however_much_one_asks() -> None:
    async def run() -> list[str]:
        visits = Visits(Admission(limit=1, max_waiting=10))
        names = [("a1", "a"), ("a2", "a"), ("a3", "a"), ("a4", "a"), ("b1", "b"), ("b2", "b")]
        tasks = await start(*(visits.visit(*name) for name in names))
        for _ in names:
            await visits.end(visits.begun[-1])
        await asyncio.gather(*tasks)
        return visits.begun

    assert asyncio.run(run()) == ["a1", "a2", "b1", "a3", "b2", "a4"]


def test_one_that_stops_waiting_takes_no_place() -> None:
    async def run() -> None:
        admission = Admission(limit=1, max_waiting=10)
        visits = Visits(admission)
        first, second, third = await start(*(visits.visit(name, "a") for name in "123"))
        assert (admission.running, admission.waiting) == (1, 2)
        second.cancel()
        await settle()
        assert admission.waiting == 1
        await visits.end("1")
        assert visits.begun == ["1", "3"]
        await visits.end("3")
        assert (admission.running, admission.waiting) == (0, 0)
        await asyncio.gather(first, third)

    asyncio.run(run())


def test_one_that_leaves_as_its_turn_comes_passes_it_on() -> None:
    async def run() -> None:
        admission = Admission(limit=1, max_waiting=10)
        visits = Visits(admission)
        async with admission.turn("a"):
            second, third = await start(*(visits.visit(name, "a") for name in "23"))
        second.cancel()  # it was given its place, and has not run since
        await settle()
        assert visits.begun == ["3"]
        await visits.end("3")
        await third
        assert admission.running == 0

    asyncio.run(run())


def test_no_more_wait_than_may() -> None:
    async def run() -> EngineBusy:
        admission = Admission(limit=1, max_waiting=2)
        visits = Visits(admission)
        tasks = await start(*(visits.visit(name, "a") for name in "123"))
        with pytest.raises(EngineBusy) as refused:
            await visits.visit("4", "b")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return refused.value

    assert asyncio.run(run()).args[0] == 2


def test_the_time_to_wait_grows_with_the_queue_and_the_answers() -> None:
    admission = Admission(limit=2, max_waiting=100)
    assert admission.retry_after_s == 5  # nothing was measured yet
    admission._measure(10.0)
    admission.waiting = 4
    assert admission.retry_after_s == 20
    admission._measure(20.0)
    assert admission.retry_after_s == 24
    admission.waiting = 1000
    assert admission.retry_after_s == 300
