"""Unloading adapters from a vLLM server, beside requests that use them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from app.engines.vllm.adapters import AdapterFiles, read_base
from app.engines.vllm.residence import Residence, name_of
from app.engines.vllm.server import Card, VllmServer
from core.errors import EngineUnavailable
from tests.app.engines.conftest import BASE, Deployment
from tests.harness.servers.fake_vllm import FakeVllm

Run = Callable[[Callable[[Residence], Awaitable[None]]], None]


class HeldServer(VllmServer):
    """A server of which one answer about what it has can be kept back: until ``hold``, where there is one, is set."""

    def __init__(self, url: str) -> None:
        super().__init__(BASE, url)
        self.hold: asyncio.Event | None = None
        self.answered = asyncio.Event()

    async def list_models(self) -> list[Card]:
        hold, self.hold = self.hold, None
        cards = await super().list_models()
        if hold is not None:
            self.answered.set()
            await hold.wait()
        return cards


@asynccontextmanager
async def residing(deployment: Deployment, server: VllmServer) -> AsyncIterator[Residence]:
    base = read_base(deployment.base_folder)
    files = AdapterFiles(deployment.blobs, deployment.settings.vllm_adapters_folder, base)
    residence = Residence(BASE, deployment.base_folder, server, files)
    try:
        yield residence
    finally:
        await residence.close()
        await server.close()


@pytest.fixture
def run(deployment: Deployment, vllm_url: str) -> Run:
    """Give what runs a piece of work with a residence of the server."""

    def run(work: Callable[[Residence], Awaitable[None]]) -> None:
        async def with_residence() -> None:
            async with residing(deployment, VllmServer(BASE, vllm_url)) as residence:
                await work(residence)

        asyncio.run(with_residence())

    return run


@pytest.fixture
def digest(deployment: Deployment) -> str:
    return deployment.add_adapter()


async def use(residence: Residence, digest: str) -> None:
    with residence.using(digest):
        await residence.ensure(digest)


def test_what_nobody_uses_is_unloaded_at_once(deployment: Deployment, digest: str, vllm: FakeVllm, run: Run) -> None:
    async def work(residence: Residence) -> None:
        await use(residence, digest)
        await residence.unload(digest)
        assert residence.resident == ()

    run(work)
    assert vllm.unloads == [name_of(digest)]
    assert list(deployment.settings.vllm_adapters_folder.iterdir()) == []


def test_what_is_in_use_is_unloaded_after_its_last_use(digest: str, vllm: FakeVllm, run: Run) -> None:
    async def work(residence: Residence) -> None:
        with residence.using(digest):
            await residence.ensure(digest)
            with residence.using(digest):
                await residence.unload(digest)
            assert vllm.unloads == []
        await asyncio.gather(*residence._unloads)
        assert vllm.unloads == [name_of(digest)]

    run(work)


def test_a_use_that_comes_before_the_unloading_keeps_the_adapter(digest: str, vllm: FakeVllm, run: Run) -> None:
    async def work(residence: Residence) -> None:
        with residence.using(digest):
            await residence.ensure(digest)
            await residence.unload(digest)
        with residence.using(digest):  # the unloading has begun, and has not run
            await asyncio.gather(*residence._unloads)
            await residence.ensure(digest)

    run(work)
    assert (vllm.unloads, vllm.loads) == ([], [name_of(digest)])


def test_unloading_what_was_never_loaded_does_nothing(vllm: FakeVllm, run: Run) -> None:
    run(lambda residence: residence.unload("e" * 64))
    assert vllm.unloads == []


def test_a_caller_that_leaves_does_not_end_the_load_of_others(digest: str, vllm: FakeVllm, run: Run) -> None:
    async def work(residence: Residence) -> None:
        await residence.served()
        with residence.using(digest):
            leaving = asyncio.create_task(residence.ensure(digest))
            await asyncio.sleep(0)
            leaving.cancel()
            await residence.ensure(digest)

    run(work)
    assert vllm.loads == [name_of(digest)]


def test_a_folder_that_the_server_does_not_see_is_named(digest: str, vllm: FakeVllm, run: Run) -> None:
    vllm.load_error = (404, "Loading lora x failed: No adapter found for /x")
    with pytest.raises(EngineUnavailable, match=f"it does not see .*{digest}; give it the home folder"):
        run(lambda residence: use(residence, digest))


def test_what_another_process_loaded_meanwhile_is_taken_as_it_is(
    deployment: Deployment, digest: str, vllm: FakeVllm, vllm_url: str, run: Run
) -> None:
    async def work(residence: Residence) -> None:
        await residence.served()
        async with residing(deployment, VllmServer(BASE, vllm_url)) as other:
            await use(other, digest)
            await use(residence, digest)

    run(work)
    assert vllm.loads == [name_of(digest)] * 2


def test_many_that_lose_the_server_together_load_once(digest: str, vllm: FakeVllm, run: Run) -> None:
    async def work(residence: Residence) -> None:
        with residence.using(digest):
            await residence.ensure(digest)
            vllm.restart()
            residence.lose()
            await asyncio.gather(*(residence.ensure(digest) for _ in range(5)))

    run(work)
    assert vllm.loads == [name_of(digest)] * 2


def test_an_answer_that_is_older_than_a_load_does_not_take_it_back(
    deployment: Deployment, digest: str, vllm: FakeVllm, vllm_url: str
) -> None:
    async def work() -> None:
        server = HeldServer(vllm_url)
        async with residing(deployment, server) as residence:
            with residence.using(digest):
                await residence.ensure(digest)
                vllm.restart()
                server.hold = hold = asyncio.Event()
                late = asyncio.create_task(residence.look())
                await server.answered.wait()
                await residence.look()
                await residence.ensure(digest)
                hold.set()
                await late
                await residence.ensure(digest)

    asyncio.run(work())
    assert vllm.loads == [name_of(digest)] * 2
