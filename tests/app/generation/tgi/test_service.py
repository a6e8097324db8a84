import asyncio
from collections.abc import AsyncGenerator

from app.generation.tgi.schemas import GenerateCreate
from app.generation.tgi.service import Generation
from app.models.service import ServedModel
from core.serving.generation import Delta, FinishReason, GenerationRequest, Token, Usage
from tests.harness.stub_engine import StubEngine


class HoldsBackUntilTheEnd(StubEngine):
    """Gives the text of its last word only with the end token, as when it could have begun a stop sequence."""

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        word = Token(id=10, text=" one", logprob=-0.5, special=False)
        end = Token(id=11, text="<|end|>", logprob=-0.5, special=True)
        yield Delta(text="", tokens=(word,))
        yield Delta(
            text=" one",
            tokens=(end,),
            finish_reason=FinishReason.END,
            usage=Usage(prompt_tokens=1, completion_tokens=2),
        )


def test_text_that_comes_with_the_end_token_reaches_clients_that_print_ordinary_tokens() -> None:
    model = ServedModel("base", "base", None)
    generation = Generation(GenerateCreate(inputs="go"), model, HoldsBackUntilTheEnd(), caller="somebody")

    async def printed() -> tuple[str, str | None]:
        events = [event async for event in generation.events()]
        return "".join(event.token.text for event in events if not event.token.special), events[-1].generated_text

    assert asyncio.run(printed()) == (" one", " one")
