"""The engine as a whole: every row of every mix is what PEFT computes for it alone."""

import asyncio
import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor

from core.errors import (
    AdapterInvalid,
    EngineBusy,
    EngineUnavailable,
    GenerationFailed,
    InvalidParameter,
    PromptTooLong,
)
from core.serving.generation import FinishReason, GenerationRequest
from core.text.tokenizer import TextTokenizer
from tests.harness.models.served_models import copy_with_tensor, serve_fp32
from tests.worker.inference.adapters.adapter_files import load_fp32
from tests.worker.inference.engine_harness import EngineHarness, EngineOutput, complete, make_request
from worker.inference.engine import LocalEngine

PROMPTS = (b"a", b"what is near the Crowne Plaza?", b"0123456789" * 9, b"name[Alimentum]", b"zz top")
TOKENS = 12


def test_every_row_of_a_mixed_batch_equals_peft_alone(each_harness: EngineHarness) -> None:
    harness = each_harness
    few = ["v_proj", "fc1"] if "phi" in str(harness.base_folder) else ["o_proj", "up_proj"]
    adapters = [
        None,
        harness.add_adapter(rank=1, seed=1),
        harness.add_adapter(rank=8, seed=2),
        harness.add_adapter(rank=3, seed=3, targets=few),
        None,
    ]
    for shift in (0, 2):
        mix = [(prompt, adapters[(row + shift) % len(adapters)]) for row, prompt in enumerate(PROMPTS)]
        requests = [make_request(list(prompt), adapter=adapter, max_tokens=TOKENS) for prompt, adapter in mix]
        expected = [harness.peft_greedy(adapter, prompt, TOKENS) for prompt, adapter in mix]
        assert [answer.ids for answer in harness.complete(*requests)] == expected


def test_rows_that_join_and_leave_at_different_steps_equal_peft_alone(harness: EngineHarness) -> None:
    adapters = [None, harness.add_adapter(rank=2, seed=1), harness.add_adapter(rank=5, seed=2)]
    # lengths that do not divide each other pair every prompt with every adapter
    cases = list(itertools.islice(zip(itertools.cycle(PROMPTS), itertools.cycle(adapters), strict=False), 12))
    lengths = [3 + 5 * (number % 4) for number in range(len(cases))]
    answers = harness.complete(
        *(
            make_request(list(prompt), adapter=adapter, max_tokens=length)
            for (prompt, adapter), length in zip(cases, lengths, strict=True)
        ),
        engine_max_batch=3,
    )
    expected = [
        harness.peft_greedy(adapter, prompt, length) for (prompt, adapter), length in zip(cases, lengths, strict=True)
    ]
    assert [answer.ids for answer in answers] == expected


def test_rows_of_rslora_and_dora_equal_peft_alone(each_harness: EngineHarness) -> None:
    harness = each_harness
    adapters = [
        harness.add_adapter(rank=8, seed=1, std=0.1, use_rslora=True),
        harness.add_adapter(rank=4, seed=2, use_dora=True),
        None,
        harness.add_adapter(rank=2, seed=3, std=0.1, use_rslora=True, use_dora=True),
        harness.add_adapter(rank=3, seed=4),
    ]
    mix = list(zip(PROMPTS, adapters, strict=True))
    requests = [make_request(list(prompt), adapter=adapter, max_tokens=TOKENS) for prompt, adapter in mix]
    answers = harness.complete(*requests)
    assert [answer.ids for answer in answers] == [
        harness.peft_greedy(adapter, prompt, TOKENS) for prompt, adapter in mix
    ]


def test_smollm2_rows_equal_peft_alone(smollm2_folder: Path, tmp_path: Path) -> None:
    harness = EngineHarness(smollm2_folder, tmp_path)
    mix = [
        ("The capital of France is", None),
        ("Once", harness.add_adapter(rank=4, seed=1, std=0.03)),
        ("2 + 2 =", harness.add_adapter(rank=8, seed=2, std=0.03, targets=["q_proj", "v_proj"])),
    ]
    answers = harness.complete(*(make_request(prompt, adapter=adapter, max_tokens=6) for prompt, adapter in mix))
    tokenizer = TextTokenizer.from_folder(smollm2_folder)
    assert [answer.ids for answer in answers] == [
        harness.peft_greedy(adapter, tokenizer.encode(prompt), 6) for prompt, adapter in mix
    ]
    assert "Paris" in answers[0].text


def test_neighbours_with_adapters_leave_a_base_row_alone(harness: EngineHarness) -> None:
    request = make_request("the base answers", max_tokens=TOKENS)
    [alone] = harness.complete(request)
    neighbours = [make_request(f"row {n}", adapter=harness.add_adapter(seed=n), max_tokens=40) for n in range(3)]
    together = harness.complete(neighbours[0], request, *neighbours[1:])[1]
    assert together.ids == alone.ids
    assert together.logprobs == pytest.approx(alone.logprobs, abs=1e-4)


def test_logprobs_are_those_of_the_raw_distribution(harness: EngineHarness) -> None:
    prompt = list(b"some prompt")
    request = make_request(prompt, max_tokens=4, temperature=1.7, top_k=5, top_p=0.9, seed=4)
    [answer] = harness.complete(request)
    loaded = load_fp32(harness.base_folder)
    with torch.inference_mode():
        logits_TV = loaded.model(input_ids=torch.tensor([prompt + answer.ids])).logits[0]
    expected_TV = logits_TV[:, : loaded.tokenizer.vocab_size].log_softmax(-1)
    expected = [float(expected_TV[len(prompt) - 1 + n, token_id]) for n, token_id in enumerate(answer.ids)]
    assert answer.logprobs == pytest.approx(expected, abs=1e-4)


def test_seeded_answers_repeat_whatever_shares_their_batch(harness: EngineHarness) -> None:
    request = make_request("tell me", max_tokens=TOKENS, temperature=1.0, top_p=0.95, seed=11)
    others = [make_request(f"other {n}", max_tokens=30, temperature=1.5, seed=n) for n in range(4)]
    [alone] = harness.complete(request)
    together = harness.complete(*others, request)[-1]
    other_seed = harness.complete(request.model_copy(update={"sampling": others[0].sampling}))[0]
    assert together.ids == alone.ids
    assert other_seed.ids[:TOKENS] != alone.ids


def test_ids_beyond_the_tokenizers_vocabulary_are_never_chosen(tiny_phi_folder: Path, tmp_path: Path) -> None:
    vocab_size = TextTokenizer.from_folder(tiny_phi_folder).vocab_size

    def favour_the_others(bias_V: Tensor) -> None:
        assert len(bias_V) > vocab_size, "the tiny model pads its vocabulary, as Phi-2 does"
        bias_V[vocab_size:] = 1e4

    folder = copy_with_tensor(tiny_phi_folder, tmp_path / "base", "lm_head.bias", favour_the_others)
    answers = EngineHarness(folder, tmp_path).complete(
        make_request("x", max_tokens=16), make_request("x", max_tokens=16, temperature=2.0)
    )
    assert max(token_id for answer in answers for token_id in answer.ids) < vocab_size


def test_usage_and_reason_tell_what_was_generated(harness: EngineHarness) -> None:
    [answer] = harness.complete(make_request("four", max_tokens=5))
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (4, 5)
    assert answer.finish_reason is FinishReason.LENGTH


def test_an_end_token_ends_the_answer_and_is_not_text(tiny_phi_folder: Path, tmp_path: Path) -> None:
    eos_id = TextTokenizer.from_folder(tiny_phi_folder).eos_id
    folder = copy_with_tensor(
        tiny_phi_folder, tmp_path / "base", "lm_head.bias", lambda bias_V: bias_V[eos_id].fill_(1e4)
    )
    [answer] = EngineHarness(folder, tmp_path).complete(make_request("x", max_tokens=16))
    assert (answer.finish_reason, answer.text) == (FinishReason.END, "")
    assert answer.ids == [eos_id]


def test_the_context_is_used_to_its_last_token_and_not_beyond(harness: EngineHarness) -> None:
    [answer] = harness.complete(make_request("p" * 250, max_tokens=6))
    assert len(answer.ids) == 6
    with pytest.raises(PromptTooLong) as caught:
        harness.complete(make_request("p" * 251, max_tokens=6))
    assert caught.value.args == (251, 6, 256, False)


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (make_request([], max_tokens=1), "prompt"),
        (make_request([1, 100_000], max_tokens=1), "prompt"),
        (make_request([-1], max_tokens=1), "prompt"),
        (make_request("x", max_tokens=1, stop=("",)), "stop"),
    ],
)
def test_what_cannot_be_answered_is_refused_by_name(
    harness: EngineHarness, request_: GenerationRequest, param: str
) -> None:
    with pytest.raises(InvalidParameter) as caught:
        harness.complete(request_)
    assert caught.value.param == param


def test_an_empty_prompt_starts_from_the_tokenizers_start_token(harness: EngineHarness) -> None:
    start_ids = TextTokenizer.from_folder(harness.base_folder).start_ids
    empty, explicit = harness.complete(make_request("", max_tokens=8), make_request(start_ids, max_tokens=8))
    assert empty.ids == explicit.ids


def test_a_cancelled_request_frees_its_row_and_its_adapter_at_the_next_step(harness: EngineHarness) -> None:
    adapter = harness.add_adapter()
    served = serve_fp32(harness.base_folder)
    runner = harness.watch(served, closed_at=5)
    room = _adapter_bytes(harness)

    async def run() -> EngineOutput:
        # room for one row and one adapter: whatever is not freed blocks the request behind
        async with harness.engine(served, runner, engine_max_batch=1, adapter_cache_bytes=room) as engine:
            endless = engine.generate(make_request("endless", adapter=adapter, max_tokens=200))
            await anext(endless)
            await endless.aclose()
            runner.open()
            return await complete(engine, make_request("x", adapter=harness.add_adapter(seed=5), max_tokens=2))

    asyncio.run(run())
    assert runner.forwards <= 5 + 2


def test_a_request_whose_asker_left_while_it_was_prepared_never_runs(harness: EngineHarness) -> None:
    async def work(engine: LocalEngine) -> None:
        leaver = asyncio.create_task(complete(engine, make_request("x", max_tokens=200)))
        await asyncio.sleep(0)
        leaver.cancel()
        await asyncio.wait({leaver})
        info = await engine.info()
        assert (info.waiting_requests, info.running_requests) == (0, 0)

    harness.run(work)


def test_a_full_queue_refuses(harness: EngineHarness) -> None:
    async def work(engine: LocalEngine) -> list[EngineOutput | BaseException]:
        requests = (make_request("x", max_tokens=20) for _ in range(5))
        return [*await asyncio.gather(*(complete(engine, request) for request in requests), return_exceptions=True)]

    outcomes = harness.run(work, engine_max_batch=1, engine_max_waiting=2)
    refused = [outcome for outcome in outcomes if isinstance(outcome, EngineBusy)]
    answered = [outcome for outcome in outcomes if isinstance(outcome, EngineOutput)]
    # all five arrive before the first can be taken out of the queue
    assert (len(refused), len(answered)) == (3, 2)


def test_a_failing_step_ends_its_requests_and_the_next_are_answered(harness: EngineHarness) -> None:
    served = serve_fp32(harness.base_folder)
    runner = harness.watch(served, failures=1)

    async def run() -> EngineOutput:
        async with harness.engine(served, runner) as engine:
            with pytest.raises(GenerationFailed):
                await complete(engine, make_request("x", max_tokens=4))
            return await complete(engine, make_request("x", max_tokens=4))

    assert asyncio.run(run()).ids == harness.peft_greedy(None, b"x", 4)
    assert runner.failures == 0
    assert harness.deaths == 0


def test_an_output_that_is_not_finite_fails_only_its_own_row(harness: EngineHarness) -> None:
    huge = harness.add_adapter(std=1e18)
    good = make_request("good", max_tokens=8)

    async def work(engine: LocalEngine) -> list[EngineOutput | BaseException]:
        bad = complete(engine, make_request("bad", adapter=huge, max_tokens=8))
        return [*await asyncio.gather(complete(engine, good), bad, return_exceptions=True)]

    answer, failure = harness.run(work)
    assert isinstance(failure, GenerationFailed)
    assert isinstance(answer, EngineOutput)
    assert answer.ids == harness.peft_greedy(None, b"good", 8)


def test_steps_that_keep_failing_end_the_engine(harness: EngineHarness) -> None:
    served = serve_fp32(harness.base_folder)
    runner = harness.watch(served, failures=1000)

    async def run() -> bool:
        async with harness.engine(served, runner) as engine:
            assert engine.is_alive
            for _ in range(3):
                with pytest.raises(GenerationFailed):
                    await complete(engine, make_request("x", max_tokens=4))
            while engine.is_alive:
                await asyncio.sleep(0.01)
            with pytest.raises(EngineUnavailable):
                await complete(engine, make_request("x", max_tokens=4))
            return engine.is_alive

    assert asyncio.run(run()) is False
    assert harness.deaths == 1


def test_closing_ends_what_is_under_way(harness: EngineHarness) -> None:
    async def run() -> None:
        async with harness.engine() as engine:
            stream = engine.generate(make_request("x", max_tokens=240))
            await anext(stream)
        with pytest.raises(EngineUnavailable):
            async for _ in stream:
                pass

    asyncio.run(run())
    assert harness.deaths == 0


def test_guesses_and_kept_prompts_leave_answers_as_peft_gives_them(harness: EngineHarness) -> None:
    adapter = harness.add_adapter(seed=1)
    beginning = b"name[Alimentum], area[city centre], name[Alimentum], area["
    prompts = [beginning + end for end in (b"", b"riverside], name[", b"", b"city")]

    async def work(engine: LocalEngine) -> list[EngineOutput]:
        return [await complete(engine, make_request(list(p), adapter=adapter, max_tokens=40)) for p in prompts]

    answers = harness.run(work)
    assert [answer.ids for answer in answers] == [harness.peft_greedy(adapter, prompt, 40) for prompt in prompts]
    assert [answer.usage.cached_tokens for answer in answers] == [0, 48, 48, 48]


def test_an_unloaded_adapter_is_gone_and_is_loaded_again_for_who_asks(harness: EngineHarness) -> None:
    adapter = harness.add_adapter()
    request = make_request("a prompt that is long enough to be kept", adapter=adapter, max_tokens=4)

    async def work(engine: LocalEngine) -> list[EngineOutput]:
        first = await complete(engine, request)
        assert (await engine.info()).resident_adapters == (adapter,)
        await engine.unload(adapter)
        await engine.unload(adapter)
        assert (await engine.info()).resident_adapters == ()
        return [first, await complete(engine, request)]

    first, again = harness.run(work)
    assert again.ids == first.ids
    assert (first.usage.cached_tokens, again.usage.cached_tokens) == (0, 0)


def test_what_could_never_run_is_refused_before_it_waits(harness: EngineHarness) -> None:
    wide = harness.add_adapter(rank=24)

    async def work(engine: LocalEngine) -> None:
        with pytest.raises(AdapterInvalid):
            await complete(engine, make_request("x", adapter=wide, max_tokens=1))
        for field in ({"stop_token_ids": (10**6,)}, {"logit_bias": {-1: 1.0}}):
            with pytest.raises(InvalidParameter) as caught:
                await complete(engine, make_request("x", max_tokens=1, **field))
            assert caught.value.param == next(iter(field))
        assert (await engine.info()).waiting_requests == 0

    harness.run(work, engine_lora_columns=16)


def test_the_engine_tells_its_load(harness: EngineHarness) -> None:
    async def work(engine: LocalEngine) -> None:
        idle = await engine.info()
        assert (idle.running_requests, idle.waiting_tokens, idle.kv_bytes) == (0, 0, 0)
        stream = engine.generate(make_request("x", max_tokens=200))
        for _ in range(2):  # what the first step took is noted before the second begins
            await anext(stream)
        busy = await engine.info()
        assert (busy.running_requests, busy.max_batch) == (1, 8)
        assert 0 < busy.kv_bytes <= busy.kv_limit_bytes
        assert idle.prefill_tokens_per_s is None
        assert busy.prefill_tokens_per_s is not None
        assert busy.prefill_tokens_per_s > 0
        await stream.aclose()

    harness.run(work)


def _adapter_bytes(harness: EngineHarness) -> int:
    async def work(engine: LocalEngine) -> int:
        await engine.warm(harness.add_adapter(seed=99))
        return (await engine.info()).resident_adapter_bytes

    return harness.run(work)
