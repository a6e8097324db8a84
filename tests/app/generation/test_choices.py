from app.generation.choices import Answer, likeliest
from core.serving.generation import Delta, Token


def answer(*logprobs: float) -> Answer:
    tokens = tuple(Token(id=1, text="a", logprob=logprob, special=False) for logprob in logprobs)
    return Answer(None, [Delta(text="a" * len(tokens), tokens=tokens)])


def test_an_answer_without_a_token_is_not_the_likeliest() -> None:
    nothing, unlikely, likely = answer(), answer(-5.0, -7.0), answer(-0.5)
    assert nothing.mean_logprob is None
    assert likeliest([nothing, unlikely, likely], of=3, keep=3) == [likely, unlikely, nothing]
