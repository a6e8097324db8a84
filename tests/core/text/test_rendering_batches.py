"""A batch of examples becomes exactly what each of them becomes alone."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.errors import ExampleInvalid
from core.text.files.examples import Chat, Columns, Example, Message, PromptCompletion
from core.text.render_settings import PromptFormat, RenderSettings
from core.text.rendering import RenderedExample, Renderer
from core.text.tokenizer import TextTokenizer

TEXTS = st.text(max_size=40) | st.sampled_from(
    ["", " ", "a b ", "<|endoftext|>", "x<|im_end|>", "é🙂", "same", " same"]
)
PAIRS = st.builds(PromptCompletion, st.just(1), TEXTS, TEXTS, st.sampled_from([(), ((0, 1),)]))
COLUMNS = st.builds(Columns, st.just(1), st.fixed_dictionaries({"q": TEXTS}, optional={"a": TEXTS}))
CHATS = st.builds(
    lambda asked, answered, again, weight: Chat(
        1,
        (
            Message("user", asked),
            Message("assistant", answered, weight),
            Message("user", again),
            Message("assistant", "z"),
        ),
    ),
    TEXTS,
    TEXTS,
    TEXTS,
    st.sampled_from([0.0, 0.5, 1.0]),
)
ANY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def alone(renderer: Renderer, example: Example) -> RenderedExample | str:
    try:
        return renderer.example(example)
    except ExampleInvalid as error:
        return repr(error)


def together(renderer: Renderer, batch: list[Example]) -> list[RenderedExample | str]:
    return [repr(one) if isinstance(one, ExampleInvalid) else one for one in renderer.examples(batch)]


@ANY
@given(batch=st.lists(PAIRS | CHATS | COLUMNS, max_size=6))
def test_without_a_prompt_format(any_tokenizer: TextTokenizer, batch: list[Example]) -> None:
    renderer = Renderer(any_tokenizer, RenderSettings(prompt_loss_weight=0.1))
    assert together(renderer, batch) == [alone(renderer, example) for example in batch]


@ANY
@given(batch=st.lists(COLUMNS | PAIRS, max_size=6))
def test_with_a_prompt_format(any_tokenizer: TextTokenizer, batch: list[Example]) -> None:
    renderer = Renderer(
        any_tokenizer, RenderSettings(prompt_format=PromptFormat(prompt="Q {{q}} ", completion="{{a}}"))
    )
    assert together(renderer, batch) == [alone(renderer, example) for example in batch]


def test_the_renderer_keeps_nothing_of_a_batch(byte_tokenizer: TextTokenizer) -> None:
    renderer = Renderer(byte_tokenizer)
    renderer.examples([PromptCompletion(1, "p", "c")])
    assert renderer.tokenizer is byte_tokenizer
    assert byte_tokenizer._known == {}
