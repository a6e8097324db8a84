"""Who may be under way at a vLLM server."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from app.engines.vllm.waiting_line import Admission
from core.errors import EngineBusy
from core.serving.admission import Limits, Load
from core.serving.fairness import Key


class Visits:
    """Requests that hold their place until they are told to leave, in the order in which they began."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self.begun: list[str] = []
        self._leave: dict[str, asyncio.Event] = {}

    async def visit(self, name: str, caller: str, prompt_tokens: int = 1) -> None:
        self._leave[name] = asyncio.Event()
        async with self._admission.turn(Key(caller, None), prompt_tokens):
            self.begun.append(name)
            await self._leave[name].wait()

    async def end(self, name: str) -> None:
        self._leave[name].set()
        await settle()


def make_admission(max_running: int = 1, *, max_waiting: int = 10, max_waiting_tokens: int = 10_000) -> Admission:
    return Admission(max_running, Limits(max_waiting, max_waiting_tokens))


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
        visits = Visits(make_admission())
        names = [("a1", "a"), ("a2", "a"), ("a3", "a"), ("a4", "a"), ("b1", "b"), ("b2", "b")]
        tasks = await start(*(visits.visit(*name) for name in names))
        for _ in names:
            await visits.end(visits.begun[-1])
        await asyncio.gather(*tasks)
        return visits.begun

    assert asyncio.run(run()) == ["a1", "a2", "b1", "a3", "b2", "a4"]


def test_one_that_stops_waiting_takes_no_place() -> None:
    async def run() -> None:
        admission = make_admission()
        visits = Visits(admission)
        first, second, third = await start(*(visits.visit(name, "a") for name in "123"))
        assert (admission.running, admission.waiting.requests) == (1, 2)
        second.cancel()
        await settle()
        assert admission.waiting.requests == 1
        await visits.end("1")
        assert visits.begun == ["1", "3"]
        await visits.end("3")
        assert (admission.running, admission.waiting.requests) == (0, 0)
        await asyncio.gather(first, third)

    asyncio.run(run())


def test_one_that_leaves_as_its_turn_comes_passes_it_on() -> None:
    async def run() -> None:
        admission = make_admission()
        visits = Visits(admission)
        async with admission.turn(Key("a", None), 1):
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
        admission = make_admission(max_waiting=2)
        visits = Visits(admission)
        tasks = await start(*(visits.visit(name, "a") for name in "123"))
        with pytest.raises(EngineBusy) as refused:
            await visits.visit("4", "b")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return refused.value

    assert asyncio.run(run()).args[0] == 2


def test_those_that_leave_together_are_not_given_places() -> None:
    async def run() -> None:
        admission = make_admission()
        visits = Visits(admission)
        first, second, third = await start(*(visits.visit(name, "a") for name in "123"))
        second.cancel()
        first.cancel()  # its place becomes free before the second has run again
        await settle()
        assert visits.begun == ["1", "3"]
        await visits.end("3")
        await third
        assert (admission.running, admission.waiting) == (0, Load(0, 0))

    asyncio.run(run())


def test_what_answers_took_decides_whose_turn_it_is() -> None:
    async def run() -> list[str]:
        admission = make_admission()
        visits = Visits(admission)
        tasks = await start(*(visits.visit(name, name[0]) for name in ("a1", "a2", "b1", "b2", "b3", "b4", "b5")))
        admission.count(Key("a", None), 2)  # as much as four tokens of prompts
        while len(visits.begun) < len(tasks):
            await visits.end(visits.begun[-1])
        await visits.end(visits.begun[-1])
        await asyncio.gather(*tasks)
        return visits.begun

    assert asyncio.run(run()) == ["a1", "b1", "b2", "b3", "b4", "a2", "b5"]


def test_no_more_prompt_tokens_wait_than_may() -> None:
    async def run() -> None:
        admission = make_admission(max_waiting_tokens=100)
        visits = Visits(admission)
        tasks = await start(visits.visit("1", "a", 500), visits.visit("2", "a", 90))
        assert admission.waiting == Load(1, 90)
        admission.check_room()
        with pytest.raises(EngineBusy):
            await visits.visit("3", "b", 11)
        tasks += await start(visits.visit("4", "b", 10))
        for name in ("1", "4", "2"):
            await visits.end(name)
        await asyncio.gather(*tasks)

    asyncio.run(run())


def test_the_time_to_wait_follows_from_how_fast_places_become_free(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0
    monkeypatch.setattr("app.engines.vllm.waiting_line.time.monotonic", lambda: now_s)

    async def run() -> None:
        nonlocal now_s
        admission = make_admission(2, max_waiting=4)
        visits = Visits(admission)
        assert admission.busy().retry_after_s == 1, "nothing was measured yet"
        tasks = await start(*(visits.visit(name, "a") for name in "12"))
        now_s = 10.0
        await visits.end("1")
        await visits.end("2")
        tasks += await start(*(visits.visit(name, "a") for name in "345678"))
        assert admission.busy().retry_after_s == 20, "four wait, and two are answered in 10 s"
        with pytest.raises(EngineBusy) as refused:
            admission.check_room()
        assert refused.value.args == (4, 5), "one of the four has to begin"
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(run())
