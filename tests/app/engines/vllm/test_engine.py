"""The engine protocol by a vLLM server, against one that behaves as vLLM does."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar

import pytest
import uvicorn

from app.engines.vllm.engine import VllmEngine
from app.engines.vllm.residence import name_of
from core.errors import (
    AdapterInvalid,
    AdapterMismatch,
    BaseModelNotReady,
    EngineBusy,
    EngineUnavailable,
    GenerationFailed,
    InvalidParameter,
    PromptTooLong,
)
from core.jobs.spec import LoraSpec
from core.serving.generation import Conversation, Delta, FinishReason, GenerationRequest, RenderRequest, Turn, Variables
from core.serving.generation import SamplingParams as Sampling
from core.text.render_settings import PromptFormat
from tests.app.conftest import serving
from tests.app.engines.conftest import BASE, CONTEXT_TOKENS, FINGERPRINT, Deployment
from tests.harness.models.byte_tokenizer import END_OF_TEXT, TURN_END, TURN_START
from tests.harness.servers.fake_vllm import LIKELIER, LOGPROB, FakeVllm

Got = TypeVar("Got")


@asynccontextmanager
async def serving_here(vllm: FakeVllm) -> AsyncIterator[str]:
    """Serve in the test's own event loop, whose events the server can then be held by."""
    server = uvicorn.Server(uvicorn.Config(vllm.app(), port=0, log_config=None))
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    await task


ABSENT = "e" * 64


def with_engine(deployment: Deployment, url: str, do: Callable[[VllmEngine], Awaitable[Got]]) -> Got:
    async def run() -> Got:
        engine = VllmEngine(BASE, url, deployment.blobs, deployment.settings, patience_s=1.0)
        try:
            return await do(engine)
        finally:
            await engine.close()

    return asyncio.run(run())


def asking(prompt: Any = "ab", adapter: str | None = None, caller: str = "", **sampling: Any) -> GenerationRequest:
    params = Sampling.model_validate({"max_tokens": 16} | sampling)
    return GenerationRequest(id="r", prompt=prompt, adapter=adapter, sampling=params, caller=caller)


async def collect(engine: VllmEngine, request: GenerationRequest) -> list[Delta]:
    return [delta async for delta in engine.generate(request)]


def answer(deployment: Deployment, url: str, request: GenerationRequest) -> list[Delta]:
    return with_engine(deployment, url, lambda engine: collect(engine, request))


def text_of(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


def test_an_answer_has_its_text_tokens_reason_and_usage(deployment: Deployment, vllm: FakeVllm, vllm_url: str) -> None:
    vllm.cached_tokens = 1
    deltas = answer(deployment, vllm_url, asking())
    assert text_of(deltas) == " one"
    tokens = [token for delta in deltas for token in delta.tokens]
    assert [token.id for token in tokens] == [*b" one", END_OF_TEXT]
    assert [token.text for token in tokens] == [" ", "o", "n", "e", "<|endoftext|>"]
    assert [token.special for token in tokens] == [False] * 4 + [True]
    assert {token.logprob for token in tokens} == {LOGPROB}
    assert [delta.finish_reason for delta in deltas] == [None] * 4 + [FinishReason.END]
    usage = deltas[-1].usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens) == (2, 5, 1)


def test_length_and_stop_sequences_end_an_answer(deployment: Deployment, vllm_url: str) -> None:
    short = answer(deployment, vllm_url, asking(max_tokens=2))
    assert (text_of(short), short[-1].finish_reason, short[-1].stop) == (" o", FinishReason.LENGTH, None)
    stopped = answer(deployment, vllm_url, asking(stop=("n",)))
    assert (text_of(stopped), stopped[-1].finish_reason, stopped[-1].stop) == (" o", FinishReason.STOP, "n")


def test_a_stop_token_ends_an_answer_as_the_end_token_does(deployment: Deployment, vllm_url: str) -> None:
    deltas = answer(deployment, vllm_url, asking(stop_token_ids=(ord("n"),)))
    assert (text_of(deltas), deltas[-1].finish_reason, deltas[-1].stop) == (" o", FinishReason.END, ord("n"))


def test_an_ignored_end_token_ends_nothing(deployment: Deployment, vllm_url: str) -> None:
    deltas = answer(deployment, vllm_url, asking(ignore_end=True, max_tokens=5))
    assert deltas[-1].finish_reason is FinishReason.LENGTH


def test_the_likeliest_tokens_are_told_in_order(deployment: Deployment, vllm_url: str) -> None:
    first = answer(deployment, vllm_url, asking(top_logprobs=2))[0]
    assert [(other.text, other.logprob) for other in first.tokens[0].top] == [("a", LIKELIER), (" ", LOGPROB)]


def test_a_prompts_logprobs_come_with_the_first_delta_only(deployment: Deployment, vllm_url: str) -> None:
    deltas = answer(deployment, vllm_url, asking("xyz", prompt_logprobs=True, top_logprobs=1))
    prompt = deltas[0].prompt
    assert prompt is not None
    assert [(token.text, token.logprob) for token in prompt] == [("x", None), ("y", LOGPROB), ("z", LOGPROB)]
    assert [len(token.top) for token in prompt] == [0, 1, 1]
    assert all(delta.prompt is None for delta in deltas[1:])
    assert text_of(deltas) == " one"


@pytest.mark.parametrize(
    ("prompt", "ids"),
    [
        ("ab", [*b"ab"]),
        ((1, 2, 3), [1, 2, 3]),
        (
            Conversation(messages=(Turn(role="user", content="a"),)),
            [TURN_START, *b"user\na", TURN_END, 10, TURN_START, *b"assistant\n"],
        ),
    ],
)
def test_the_server_is_fed_the_prompts_own_ids(
    deployment: Deployment, vllm: FakeVllm, vllm_url: str, prompt: Any, ids: list[int]
) -> None:
    answer(deployment, vllm_url, asking(prompt))
    assert vllm.bodies[0]["prompt"] == ids


def test_variables_are_rendered_by_the_adapters_own_format(
    deployment: Deployment, vllm: FakeVllm, vllm_url: str
) -> None:
    adapter = deployment.add_adapter(prompt_format=PromptFormat(prompt="Q {{q}} A", completion="{{a}}"))
    prompt = Variables(variables={"q": "x"})
    answer(deployment, vllm_url, asking(prompt, adapter))
    assert bytes(vllm.bodies[0]["prompt"]) == b"Q x A"
    rendering = with_engine(
        deployment, vllm_url, lambda engine: engine.render(RenderRequest(prompt=prompt, adapter=adapter))
    )
    assert (rendering.text, bytes(rendering.ids)) == ("Q x A", b"Q x A")
    with pytest.raises(InvalidParameter, match="no prompt format"):
        answer(deployment, vllm_url, asking(prompt))


def test_an_adapter_is_loaded_once_under_its_digest_for_many_requests(
    deployment: Deployment, vllm: FakeVllm, vllm_url: str
) -> None:
    first, second = deployment.add_adapter(1), deployment.add_adapter(2)

    async def ask_all(engine: VllmEngine) -> list[list[Delta]]:
        return await asyncio.gather(*(collect(engine, asking("p", digest)) for digest in [first, second] * 4))

    answers = with_engine(deployment, vllm_url, ask_all)
    assert [text_of(deltas)[:4] for deltas in answers] == [first[-4:], second[-4:]] * 4
    assert sorted(vllm.loads) == sorted([name_of(first), name_of(second)])
    assert {body["model"] for body in vllm.bodies} == {name_of(first), name_of(second)}


def test_what_the_server_has_already_is_not_loaded_again(deployment: Deployment, vllm: FakeVllm, vllm_url: str) -> None:
    adapter = deployment.add_adapter()
    for _ in range(2):  # the second engine is another process, which finds the adapter listed
        answer(deployment, vllm_url, asking("p", adapter))
    assert vllm.loads == [name_of(adapter)]


def test_after_a_restart_the_adapter_is_loaded_again_and_the_request_answered(
    deployment: Deployment, vllm: FakeVllm, vllm_url: str
) -> None:
    adapter = deployment.add_adapter()

    async def restart_between(engine: VllmEngine) -> list[Delta]:
        await collect(engine, asking("p", adapter))
        vllm.restart()
        return await collect(engine, asking("p", adapter))

    deltas = with_engine(deployment, vllm_url, restart_between)
    assert text_of(deltas) == f"{adapter[-4:]} one"
    assert vllm.loads == [name_of(adapter)] * 2


def test_a_connection_lost_before_the_first_chunk_is_tried_once_more(
    deployment: Deployment, vllm: FakeVllm, vllm_url: str
) -> None:
    vllm.breaks = [0]
    assert text_of(answer(deployment, vllm_url, asking())) == " one"
    vllm.breaks = [0, 0]
    with pytest.raises(GenerationFailed, match="connection to vLLM ended"):
        answer(deployment, vllm_url, asking())


def test_a_connection_lost_later_ends_the_answer(deployment: Deployment, vllm: FakeVllm, vllm_url: str) -> None:
    vllm.breaks = [2]
    with pytest.raises(GenerationFailed, match="connection to vLLM ended"):
        answer(deployment, vllm_url, asking())
    assert len(vllm.bodies) == 1


def test_a_full_server_is_asked_again(deployment: Deployment, vllm: FakeVllm, vllm_url: str) -> None:
    vllm.full = 2
    assert text_of(answer(deployment, vllm_url, asking())) == " one"
    assert len(vllm.bodies) == 3


def test_a_server_that_stays_full_is_busy(deployment: Deployment, vllm: FakeVllm, vllm_url: str) -> None:
    vllm.full = 1000
    with pytest.raises(EngineBusy):
        answer(deployment, vllm_url, asking())


def test_a_late_refusal_names_the_field(deployment: Deployment, vllm: FakeVllm, vllm_url: str) -> None:
    vllm.late_error = {"message": "too many", "type": "BadRequestError", "param": "logprobs", "code": 400}
    with pytest.raises(InvalidParameter, match="too many") as raised:
        answer(deployment, vllm_url, asking())
    assert raised.value.param == "top_logprobs"


def test_a_prompt_longer_than_either_context_is_refused(deployment: Deployment, vllm: FakeVllm, vllm_url: str) -> None:
    with pytest.raises(PromptTooLong, match=f"holds {CONTEXT_TOKENS}"):
        answer(deployment, vllm_url, asking("p" * CONTEXT_TOKENS))
    vllm.context_tokens = 17
    assert answer(deployment, vllm_url, asking("p"))
    with pytest.raises(PromptTooLong, match="holds 17"):
        answer(deployment, vllm_url, asking("pp"))


def test_closing_an_answer_closes_the_stream_and_frees_its_place(deployment: Deployment, vllm: FakeVllm) -> None:
    async def leave_early() -> int:
        vllm.holds = asyncio.Event()
        async with serving_here(vllm) as url:
            engine = VllmEngine(BASE, url, deployment.blobs, deployment.settings)
            async with aclosing(engine.generate(asking())) as deltas:
                await anext(deltas)
                assert (await engine.info()).running_requests == 1
            await asyncio.wait_for(vllm.left.wait(), timeout=20)
            running = (await engine.info()).running_requests
            await engine.close()
            return running

    assert asyncio.run(leave_early()) == 0


def test_info_tells_base_model_context_and_resident_adapters(
    deployment: Deployment, vllm: FakeVllm, vllm_url: str
) -> None:
    adapter = deployment.add_adapter()

    async def warmed(engine: VllmEngine) -> None:
        await engine.warm(adapter)
        info = await engine.info()
        assert (info.base_model, info.fingerprint) == (BASE, FINGERPRINT)
        assert (info.context_tokens, info.resident_adapters) == (CONTEXT_TOKENS, (adapter,))
        vllm.restart()
        assert (await engine.info()).resident_adapters == ()

    with_engine(deployment, vllm_url, warmed)


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"base_model_fingerprint": "1" * 64}, AdapterMismatch, "trained on 'tiny' with fingerprint 1"),
        ({"tokenizer_sha256": "1" * 64}, AdapterMismatch, "another tokenizer"),
        ({"example_format": "messages"}, AdapterMismatch, "another chat template"),
        ({"lora": LoraSpec(use_dora=True)}, AdapterInvalid, "DoRA, which vLLM does not compute"),
        (
            {"prompts": ({"source": "ab", "text": "ab", "ids": (1, 2)},)},
            AdapterMismatch,
            "training prompt 1 is not rendered here as it was trained",
        ),
    ],
)
def test_an_adapter_that_does_not_fit_reaches_no_server(
    deployment: Deployment, vllm: FakeVllm, vllm_url: str, changes: Any, error: type[Exception], says: str
) -> None:
    adapter = deployment.add_adapter(**changes)
    with pytest.raises(error, match=says):
        answer(deployment, vllm_url, asking("p", adapter))
    assert (vllm.loads, vllm.bodies) == ([], [])


def test_an_adapter_that_is_not_stored_is_refused(deployment: Deployment, vllm_url: str) -> None:
    with pytest.raises(AdapterInvalid, match="not stored"):
        answer(deployment, vllm_url, asking("p", ABSENT))


def test_an_adapter_that_the_server_refuses_is_tried_again_by_the_next_request(
    deployment: Deployment, vllm: FakeVllm, vllm_url: str
) -> None:
    adapter = deployment.add_adapter()

    async def ask_twice(engine: VllmEngine) -> list[Delta]:
        vllm.load_error = (500, "LoRA rank 96 is greater than max_lora_rank 64.")
        with pytest.raises(AdapterInvalid, match="rank 96 is greater"):
            await collect(engine, asking("p", adapter))
        vllm.load_error = None
        return await collect(engine, asking("p", adapter))

    assert text_of(with_engine(deployment, vllm_url, ask_twice)) == f"{adapter[-4:]} one"


def test_a_server_without_adapter_routes_is_told_how_to_start(deployment: Deployment, vllm: FakeVllm) -> None:
    vllm.has_lora_routes = False
    adapter = deployment.add_adapter()
    with serving(vllm.app()) as url, pytest.raises(EngineUnavailable, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"):
        answer(deployment, url, asking("p", adapter))


def test_a_server_of_another_base_model_is_not_asked(deployment: Deployment, vllm: FakeVllm, vllm_url: str) -> None:
    vllm.root = deployment.scratch
    with pytest.raises(EngineUnavailable, match=f"start it with --model {deployment.base_folder}"):
        answer(deployment, vllm_url, asking())
    assert vllm.bodies == []


def test_a_server_that_is_not_there_is_unavailable(deployment: Deployment) -> None:
    with pytest.raises(EngineUnavailable, match="the engine for tiny does not answer"):
        answer(deployment, "http://127.0.0.1:1", asking())


def test_a_base_model_that_is_not_imported_is_not_ready(deployment: Deployment, vllm_url: str) -> None:
    (deployment.base_folder / "loramill.json").unlink()
    with pytest.raises(BaseModelNotReady, match="not imported"):
        answer(deployment, vllm_url, asking())


def test_more_than_may_wait_are_refused_before_anything_is_read_for_them(
    deployment: Deployment, vllm: FakeVllm
) -> None:
    settings = deployment.settings.model_copy(update={"vllm_max_running": 1, "engine_max_waiting": 1})

    async def run() -> None:
        vllm.holds = asyncio.Event()
        async with serving_here(vllm) as url:
            engine = VllmEngine(BASE, url, deployment.blobs, settings)
            asked = [asyncio.create_task(collect(engine, asking())) for _ in range(2)]
            while (await engine.info()).waiting_requests == 0:
                await asyncio.sleep(0.01)
            with pytest.raises(EngineBusy):
                await collect(engine, asking("p", ABSENT))
            vllm.holds.set()
            assert [text_of(deltas) for deltas in await asyncio.gather(*asked)] == [" one", " one"]
            await engine.close()

    asyncio.run(run())


def test_those_that_come_together_are_refused_too(deployment: Deployment, vllm: FakeVllm) -> None:
    settings = deployment.settings.model_copy(update={"vllm_max_running": 1, "engine_max_waiting": 1})

    async def run() -> list[object]:
        vllm.holds = asyncio.Event()
        async with serving_here(vllm) as url:
            engine = VllmEngine(BASE, url, deployment.blobs, settings)
            asked = [asyncio.create_task(collect(engine, asking())) for _ in range(3)]
            await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            vllm.holds.set()
            outcomes = await asyncio.gather(*asked, return_exceptions=True)
            await engine.close()
            return list(outcomes)

    assert sorted(type(outcome) is list for outcome in asyncio.run(run())) == [False, True, True]
