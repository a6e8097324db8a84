"""Where tokens stand in a text that grows, in OpenAI's two shapes."""

from app.generation.openai import logprobs
from app.generation.openai.logprobs import Offsets
from core.serving.generation import Alternative, PromptToken, Token


def token(text: str, *, special: bool = False, top: tuple[str, ...] = ()) -> Token:
    alternatives = tuple(Alternative(id=1, text=other, logprob=-1.0, special=False) for other in top)
    return Token(id=0, text=text, logprob=-0.5, special=special, top=alternatives)


def offsets_in(text: str, *tokens: Token | PromptToken) -> list[int]:
    offsets = Offsets()
    offsets.text = text
    return logprobs.of_completion(tokens, offsets).text_offset


def test_parts_of_a_character_do_not_move_what_comes_after_it() -> None:
    part = token("\ufffd")
    assert offsets_in("a🙂 b b", token("a"), part, part, part, token(" b"), token(" b")) == [0, 1, 1, 1, 2, 4]


def test_what_stands_before_a_prompt_has_no_room_in_its_text() -> None:
    begin = PromptToken(id=0, text="<s>", logprob=None, special=True)
    assert offsets_in("ab", begin, token("a"), token("b")) == [0, 0, 1]


def test_special_tokens_that_a_prompt_writes_out_have_room() -> None:
    assert offsets_in("<user>hi", token("<user>", special=True), token("hi")) == [0, 6]


def test_text_that_is_held_back_is_placed_where_it_will_stand() -> None:
    offsets = Offsets()
    offsets.text = "ab"
    assert logprobs.of_completion([token("ab"), token(" c")], offsets).text_offset == [0, 2]
    offsets.text = "ab c d"
    assert logprobs.of_completion([token(" d")], offsets).text_offset == [4]


def test_the_likeliest_of_tokens_that_look_alike_is_told() -> None:
    (top,) = logprobs.of_completion([token("\ufffd", top=("\ufffd", "x"))], Offsets()).top_logprobs
    assert top == {"\ufffd": -1.0, "x": -1.0}


def test_part_of_a_character_has_no_bytes_of_its_own() -> None:
    first, second = logprobs.of_chat([token("é"), token("\ufffd")]).content
    assert (first.bytes, second.bytes) == ([0xC3, 0xA9], None)
