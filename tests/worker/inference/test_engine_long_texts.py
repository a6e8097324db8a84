"""Long texts at the engine: refused before they are tokenised, and read beside everything else."""

import asyncio
import threading

import pytest
from tokenizers import Encoding

from core.errors import PromptTooLong
from core.serving import text_readers
from core.serving.generation import Conversation, RenderRequest, Turn
from core.text.tokenizer import TextTokenizer
from tests.worker.inference.engine_harness import EngineHarness, EngineOutput, complete, make_request
from worker.inference.engine import LocalEngine


def test_texts_that_take_long_keep_no_others_from_being_read(
    harness: EngineHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_end = threading.Event()
    encode = TextTokenizer._encoding
    monkeypatch.setattr(text_readers, "LONG_CHARS", 100)

    def encode_held(tokenizer: TextTokenizer, text: str) -> Encoding:
        if len(text) > 100:
            may_end.wait()
        return encode(tokenizer, text)

    monkeypatch.setattr(TextTokenizer, "_encoding", encode_held)

    async def run(engine: LocalEngine) -> tuple[EngineOutput, list[EngineOutput]]:
        # more than the event loop has threads for
        held = [asyncio.create_task(complete(engine, make_request("p" * 101, max_tokens=2))) for _ in range(40)]
        await asyncio.sleep(0)
        try:
            async with asyncio.timeout(60):
                short = await complete(engine, make_request("p" * 99, max_tokens=4))
            assert not any(task.done() for task in held)
        finally:
            may_end.set()
        return short, await asyncio.gather(*held)

    short, held = harness.run(run)
    assert len(short.ids) == 4
    assert [len(answer.ids) for answer in held] == [2] * 40


def test_a_prompt_that_cannot_fit_is_refused_without_being_tokenised(
    harness: EngineHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse_to_encode(_tokenizer: TextTokenizer, _text: str) -> Encoding:
        raise AssertionError("it was tokenised")

    async def run(engine: LocalEngine) -> None:
        monkeypatch.setattr(TextTokenizer, "_encoding", refuse_to_encode)
        with pytest.raises(PromptTooLong, match="has at least 308 tokens and 16 more are asked for"):
            await complete(engine, make_request("p" * 4000, max_tokens=16))  # 13 bytes are in <|endoftext|>
        conversation = Conversation(messages=(Turn(role="user", content="p" * 4000),))
        with pytest.raises(PromptTooLong, match="has at least 312 tokens"):
            await engine.render(RenderRequest(prompt=conversation, adapter=None))

    harness.run(run)
