"""Unloading adapters from a vLLM server, beside requests that use them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from app.engines.vllm_adapters import AdapterFiles, read_base
from app.engines.vllm_residence import Residence, name_of
from app.engines.vllm_server import VllmServer
from core.errors import EngineUnavailable
from tests.app.engines.conftest import BASE, Deployment
from tests.fake_vllm import FakeVllm


@asynccontextmanager
async def residing(deployment: Deployment, url: str) -> AsyncIterator[Residence]:
    server = VllmServer(BASE, url)
    base = read_base(deployment.base_folder)
    files = AdapterFiles(deployment.blobs, deployment.settings.vllm_adapters_folder, base)
    residence = Residence(BASE, deployment.base_folder, server, files)
    try:
        yield residence
    finally:
        await residence.close()
        await server.close()


def test_what_nobody_uses_is_unloaded_at_once(deployment: Deployment, vllm: FakeVllm, vllm_url: str) -> None:
    digest = deployment.add_adapter()

    async def run() -> None:
        async with residing(deployment, vllm_url) as residence:
            with residence.using(digest):
                await residence.ensure(digest)
            await residence.unload(digest)
            assert residence.resident == ()

    asyncio.run(run())
    assert vllm.unloads == [name_of(digest)]
    assert list(deployment.settings.vllm_adapters_folder.iterdir()) == []


def test_what_is_in_use_is_unloaded_after_its_last_use(deployment: Deployment, vllm: FakeVllm, vllm_url: str) -> None:
    digest = deployment.add_adapter()

    async def run() -> None:
        async with residing(deployment, vllm_url) as residence:
            with residence.using(digest):
                await residence.ensure(digest)
                with residence.using(digest):
                    await residence.unload(digest)
                assert vllm.unloads == []
            await asyncio.gather(*residence._unloads)
            assert vllm.unloads == [name_of(digest)]

    asyncio.run(run())


def test_a_use_that_comes_before_the_unloading_keeps_the_adapter(
    deployment: Deployment, vllm: FakeVllm, vllm_url: str
) -> None:
    digest = deployment.add_adapter()

    async def run() -> None:
        async with residing(deployment, vllm_url) as residence:
            with residence.using(digest):
                await residence.ensure(digest)
                await residence.unload(digest)
            with residence.using(digest):  # the unloading has begun, and has not run
                await asyncio.gather(*residence._unloads)
                await residence.ensure(digest)

    asyncio.run(run())
    assert (vllm.unloads, vllm.loads) == ([], [name_of(digest)])


def test_unloading_what_was_never_loaded_does_nothing(deployment: Deployment, vllm: FakeVllm, vllm_url: str) -> None:
    async def run() -> None:
        async with residing(deployment, vllm_url) as residence:
            await residence.unload("e" * 64)

    asyncio.run(run())
    assert vllm.unloads == []


def test_a_caller_that_leaves_does_not_end_the_load_of_others(
    deployment: Deployment, vllm: FakeVllm, vllm_url: str
) -> None:
    digest = deployment.add_adapter()

    async def run() -> None:
        async with residing(deployment, vllm_url) as residence:
            await residence.served()
            with residence.using(digest):
                leaving = asyncio.create_task(residence.ensure(digest))
                await asyncio.sleep(0)
                leaving.cancel()
                await residence.ensure(digest)

    asyncio.run(run())
    assert vllm.loads == [name_of(digest)]


def test_a_folder_that_the_server_does_not_see_is_named(deployment: Deployment, vllm: FakeVllm, vllm_url: str) -> None:
    digest = deployment.add_adapter()
    vllm.load_error = (404, "Loading lora x failed: No adapter found for /x")

    async def run() -> None:
        async with residing(deployment, vllm_url) as residence:
            with residence.using(digest):
                await residence.ensure(digest)

    with pytest.raises(EngineUnavailable, match=f"it does not see .*{digest}; give it the home folder"):
        asyncio.run(run())


def test_what_another_process_loaded_meanwhile_is_taken_as_it_is(
    deployment: Deployment, vllm: FakeVllm, vllm_url: str
) -> None:
    digest = deployment.add_adapter()

    async def run() -> None:
        async with residing(deployment, vllm_url) as first, residing(deployment, vllm_url) as second:
            await first.served()
            for residence in (second, first):
                with residence.using(digest):
                    await residence.ensure(digest)

    asyncio.run(run())
    assert vllm.loads == [name_of(digest)] * 2


def test_many_that_lose_the_server_together_load_once(deployment: Deployment, vllm: FakeVllm, vllm_url: str) -> None:
    digest = deployment.add_adapter()

    async def run() -> None:
        async with residing(deployment, vllm_url) as residence:
            with residence.using(digest):
                await residence.ensure(digest)
                vllm.restart()
                residence.lose()
                await asyncio.gather(*(residence.ensure(digest) for _ in range(5)))

    asyncio.run(run())
    assert vllm.loads == [name_of(digest)] * 2
