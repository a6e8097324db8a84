"""Constraints: whatever the logits say, the answer fits; what cannot be followed is refused, and says why."""

import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from core.errors import GenerationFailed, InvalidParameter
from core.serving.generation import Constraint, SamplingParams
from core.text.tokenizer import TextTokenizer
from tests.harness.models.byte_tokenizer import END_OF_TEXT, TURN_END, TURN_START, write_byte_tokenizer
from worker.inference.sampling import constraints
from worker.inference.sampling.constraints import ConstraintCompiler, ConstraintState
from worker.inference.sampling.sampler import RowSampler, sample

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def byte_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_byte_tokenizer(folder)
    return TextTokenizer.from_folder(folder)


@pytest.fixture(scope="module")
def compiler(byte_tokenizer: TextTokenizer) -> ConstraintCompiler:
    return ConstraintCompiler(byte_tokenizer)


@pytest.fixture(scope="module")
def smollm2(smollm2_folder: Path) -> tuple[TextTokenizer, ConstraintCompiler]:
    tokenizer = TextTokenizer.from_folder(smollm2_folder)
    return tokenizer, ConstraintCompiler(tokenizer)


def schema(**keywords: Any) -> Constraint:
    return Constraint(
        kind="json_schema", value=json.dumps({"type": "object", "additionalProperties": False, **keywords})
    )


def regex(expression: str) -> Constraint:
    return Constraint(kind="regex", value=expression)


def answer(
    tokenizer: TextTokenizer, state: ConstraintState, seed: int, *, padding: int = 0, limit: int = 600, **params: Any
) -> str | None:
    """Let random logits answer; None if that takes more than ``limit`` tokens. ``padding`` ids have no token."""
    params = {"temperature": 1.0, "seed": seed, **params}
    sampling = SamplingParams.model_validate(params)
    sampler = RowSampler(sampling, (), tokenizer, CPU, state)
    ends = {*sampling.stop_token_ids, *(() if sampling.ignore_end else tokenizer.end_ids)}
    generator = torch.Generator().manual_seed(seed)
    ids: list[int] = []
    while len(ids) < limit:
        logits_V = torch.randn(tokenizer.vocab_size + padding, generator=generator) * 3
        (choice,) = sample([sampler], logits_V[None])
        if choice.token_id in ends:
            return tokenizer.decode(ids)
        sampler.accept(choice.token_id)
        ids.append(choice.token_id)
        if sampler.is_complete:
            return tokenizer.decode(ids)
    return None


TEXT = {"type": "string", "maxLength": 12}
POINT = {
    "type": "object",
    "properties": {"x": {"type": "number", "minimum": -9, "maximum": 9}},
    "required": ["x"],
    "additionalProperties": False,
}
PLACES = ["Köln", "東京", "🙂", 'a "quoted" one', 3, None]
PERSON = schema(
    properties={"name": TEXT, "age": {"type": "integer", "minimum": 0, "maximum": 150}, "is_new": {"type": "boolean"}},
    required=["name", "age"],
)
PLACE = schema(properties={"where": {"enum": PLACES}}, required=["where"])
NESTED = schema(
    properties={
        "tags": {"type": "array", "items": TEXT, "minItems": 1, "maxItems": 3},
        "at": {"$ref": "#/$defs/point"},
    },
    required=["tags", "at"],
    **{"$defs": {"point": POINT}},
)


def is_person(value: Any) -> bool:
    assert len(value["name"]) <= 12
    return {"name", "age"} <= value.keys() <= {"name", "age", "is_new"} and value["age"] in range(151)


def is_nested(value: Any) -> bool:
    assert all(isinstance(tag, str) for tag in value["tags"])
    return value.keys() == {"tags", "at"} and 1 <= len(value["tags"]) <= 3 and -9 <= value["at"]["x"] <= 9


SCHEMAS: list[tuple[Constraint, Callable[[Any], bool]]] = [
    (PERSON, is_person),
    (PLACE, lambda value: value["where"] in PLACES),
    (NESTED, is_nested),
]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("constraint", "fits"), SCHEMAS, ids=["person", "place", "nested"])
def test_whatever_the_logits_say_the_answer_follows_the_schema(
    byte_tokenizer: TextTokenizer,
    compiler: ConstraintCompiler,
    smollm2: tuple[TextTokenizer, ConstraintCompiler],
    constraint: Constraint,
    fits: Callable[[Any], bool],
    seed: int,
) -> None:
    for tokenizer, its_compiler in ((byte_tokenizer, compiler), smollm2):
        text = answer(tokenizer, its_compiler.compile(constraint), seed)
        assert text is not None, "it comes to an end"
        assert fits(json.loads(text)), text


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "expression",
    [
        r"[A-Z]{3}-[0-9]{2,4}(\.[0-9])?",
        r"(ja|nein|weiß nicht)!?",
        r"[äöü日本]{5}🙂",
        r"^a/b\n[^x]$",
        r"(?i)yes|no",
        r"a{0,3}",
    ],
)
def test_whatever_the_logits_say_the_answer_matches_the_expression_whole(
    byte_tokenizer: TextTokenizer,
    compiler: ConstraintCompiler,
    smollm2: tuple[TextTokenizer, ConstraintCompiler],
    expression: str,
    seed: int,
) -> None:
    for tokenizer, its_compiler in ((byte_tokenizer, compiler), smollm2):
        text = answer(tokenizer, its_compiler.compile(regex(expression)), seed)
        assert text is not None
        assert re.fullmatch(expression, text), text


def test_any_object_is_an_object_unless_it_is_cut_off(smollm2: tuple[TextTokenizer, ConstraintCompiler]) -> None:
    tokenizer, its_compiler = smollm2
    texts = [
        answer(tokenizer, its_compiler.compile(Constraint(kind="json_object")), seed, limit=200) for seed in range(6)
    ]
    whole = [text for text in texts if text is not None]
    assert whole
    assert all(isinstance(json.loads(text), dict) for text in whole)


def test_the_likeliest_fitting_token_is_taken_without_chance(
    byte_tokenizer: TextTokenizer, compiler: ConstraintCompiler
) -> None:
    text = answer(byte_tokenizer, compiler.compile(PLACE), seed=3, temperature=0.0)
    assert text is not None
    assert json.loads(text)["where"] in PLACES


def test_ids_without_a_token_are_never_chosen(byte_tokenizer: TextTokenizer, compiler: ConstraintCompiler) -> None:
    for seed in range(3):
        assert answer(byte_tokenizer, compiler.compile(PLACE), seed, padding=1000) is not None


def test_no_bias_overcomes_a_constraint(byte_tokenizer: TextTokenizer, compiler: ConstraintCompiler) -> None:
    text = answer(byte_tokenizer, compiler.compile(regex("[ab]{4}")), 1, logit_bias={ord("c"): 100.0, ord("b"): 100.0})
    assert text == "bbbb"


def allowed(state: ConstraintState, *ends: int) -> set[int]:
    """Give the ids that may follow."""
    logits_V = torch.zeros(300)
    state.forbid(logits_V, ends)
    return {token_id for token_id, value in enumerate(logits_V.tolist()) if value == 0}


def test_ends_are_allowed_exactly_where_the_answer_is_whole(compiler: ConstraintCompiler) -> None:
    state = compiler.compile(regex("ab?"))
    assert allowed(state, END_OF_TEXT, TURN_END) == {ord("a")}
    state.accept(ord("a"))
    assert allowed(state, END_OF_TEXT, TURN_END) == {ord("b"), END_OF_TEXT, TURN_END}
    assert not state.is_complete
    state.accept(ord("b"))
    assert allowed(state, END_OF_TEXT, TURN_END) == {END_OF_TEXT, TURN_END}
    assert state.is_complete


def test_an_end_that_the_request_ignores_is_not_allowed(compiler: ConstraintCompiler) -> None:
    state = compiler.compile(regex("ab?"))
    state.accept(ord("a"))
    assert allowed(state) == {ord("b")}


@pytest.mark.parametrize("seed", range(4))
def test_stop_tokens_end_only_whole_answers(
    byte_tokenizer: TextTokenizer, compiler: ConstraintCompiler, seed: int
) -> None:
    stop: dict[str, Any] = {"stop_token_ids": (TURN_START,), "ignore_end": True, "logit_bias": {TURN_START: 100.0}}
    text = answer(byte_tokenizer, compiler.compile(regex("(ab)+")), seed, **stop)
    assert text == "ab", "the stop token was wanted from the beginning"


def test_an_answer_that_ignores_ends_is_complete_where_nothing_can_follow(
    byte_tokenizer: TextTokenizer, compiler: ConstraintCompiler
) -> None:
    assert answer(byte_tokenizer, compiler.compile(regex("a{3,6}")), 1, ignore_end=True) == "aaaaaa"


def test_white_space_between_tokens_has_an_end(compiler: ConstraintCompiler) -> None:
    state = compiler.compile(PERSON)
    state.accept(ord("{"))
    for _ in range(32):
        assert ord(" ") in allowed(state)
        state.accept(ord(" "))
    assert allowed(state) == {ord('"')}


def test_answers_to_one_constraint_go_on_each_by_itself(compiler: ConstraintCompiler) -> None:
    one, other = compiler.compile(regex("ab|cd")), compiler.compile(regex("ab|cd"))
    one.accept(ord("a"))
    assert allowed(one) == {ord("b")}
    assert allowed(other) == {ord("a"), ord("c")}
    other.accept(ord("c"))
    assert (allowed(one), allowed(other)) == ({ord("b")}, {ord("d")})


def test_a_token_that_does_not_fit_fails_the_answer(compiler: ConstraintCompiler) -> None:
    with pytest.raises(GenerationFailed, match="the constraint cannot be followed"):
        compiler.compile(regex("ab")).accept(ord("x"))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ('{"not": {"type": "string"}}', "not"),
        ('{"type": "array", "uniqueItems": true}', "uniqueItems"),
        ('{"x-guidance": {"lenient": true}, "uniqueItems": true}', "uniqueItems"),
        ('{"type": "strong"}', "strong"),
        ('{"type": "string", "format": "poem"}', "poem"),
        ('{"type": "string", "pattern": "(?=a)"}', "look-around"),
        ('{"$ref": "#/$defs/missing"}', "missing"),
        ('{"$ref": "https://example.org/schema.json"}', "example.org"),
        ('{"$ref": "#"}', "no text fits it"),
        ('{"type": "string", "minLength": 3, "maxLength": 2}', "minLength"),
        ('{"const": NaN}', "expected value"),
        ('{"const": "\\ud800"}', "hex escape"),
        ("[]", "must be a JSON schema, which is an object"),
        ("{", "not JSON"),
        ('{"items": ' * 5000, "nested too deep"),
    ],
)
def test_a_schema_that_cannot_be_followed_is_refused_by_what_it_uses(
    compiler: ConstraintCompiler, value: str, reason: str
) -> None:
    with pytest.raises(InvalidParameter, match=reason) as refusal:
        compiler.compile(Constraint(kind="json_schema", value=value))
    assert refusal.value.param == "response_format"


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("(?=x)y", "look-around"),
        (r"(a)\1", "backreferences are not supported"),
        (r"\bword", "lookarounds not supported"),
        ("(", "^regex: cannot be followed: unclosed group$"),
        ("(?:" * 500 + "a" + ")" * 500, "nested"),
        ("()", "only an empty answer"),
        ("(" * 6 + "a" + "{100})" * 6, "too many expressions"),
        ("(?s).*" * 500, "cannot be followed"),
    ],
    ids=lambda value: value[:12],
)
def test_an_expression_that_cannot_be_followed_is_refused(
    compiler: ConstraintCompiler, expression: str, reason: str
) -> None:
    with pytest.raises(InvalidParameter, match=reason) as refusal:
        compiler.compile(regex(expression))
    assert refusal.value.param == "regex"


def test_a_refusal_names_the_field_that_the_caller_says(compiler: ConstraintCompiler) -> None:
    with pytest.raises(InvalidParameter) as refusal:
        compiler.compile(regex("("), param="parameters.grammar")
    assert refusal.value.param == "parameters.grammar"


def chain(links: int, **keywords: Any) -> Constraint:
    """Give a schema whose definitions refer each to the next."""
    definitions = {f"d{n}": {"prefixItems": [{"$ref": f"#/$defs/d{n + 1}"}], **keywords} for n in range(links)}
    return schema(**{"$defs": {**definitions, f"d{links}": {"type": "null"}}, "$ref": "#/$defs/d0"})


def test_references_that_would_exhaust_the_stack_are_refused(compiler: ConstraintCompiler) -> None:
    with pytest.raises(InvalidParameter, match="depth times references is 6,0"):
        compiler.compile(chain(1200))
    with pytest.raises(InvalidParameter, match="depth times references"):
        compiler.compile(chain(50, **{"$id": "https://example.org/"}))
    compiler.compile(chain(100))


def test_what_only_looks_like_keywords_is_data(compiler: ConstraintCompiler) -> None:
    compiler.compile(schema(properties={name: {"type": "null"} for name in ("$ref", "$id", "multipleOf")}))


def test_multiples_that_would_take_for_ever_are_refused(compiler: ConstraintCompiler) -> None:
    with pytest.raises(InvalidParameter, match="multipleOf"):
        compiler.compile(schema(properties={"n": {"type": "integer", "multipleOf": 99999989}}))
    with pytest.raises(InvalidParameter, match="multipleOf"):
        compiler.compile(schema(allOf=[{"multipleOf": 997}, {"multipleOf": 1009}]))
    compiler.compile(schema(properties={"n": {"multipleOf": 5}, "m": {"multipleOf": 0.01}, "k": {"multipleOf": 1000}}))


def test_a_constraint_is_compiled_once_and_the_least_used_is_forgotten(
    byte_tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constraints, "CACHED_CONSTRAINTS", 2)
    compiled: list[str] = []

    class CountingCompiler(ConstraintCompiler):
        def _begin(self, grammar: str, param: str) -> ConstraintState:
            compiled.append(grammar)
            return super()._begin(grammar, param)

    compiler = CountingCompiler(byte_tokenizer)
    for expression in ("a", "b", "a", "c", "a", "b"):
        compiler.compile(regex(expression))
    assert len(compiled) == 4, "only b was forgotten"


def test_threads_share_a_compiler(byte_tokenizer: TextTokenizer) -> None:
    compiler = ConstraintCompiler(byte_tokenizer)
    states: list[ConstraintState] = []
    work = [threading.Thread(target=lambda: states.append(compiler.compile(PERSON))) for _ in range(8)]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    for state in states:
        assert allowed(state) == {ord("{")}
        state.accept(ord("{"))


def test_an_end_that_the_tokenizer_does_not_have_is_no_obstacle(tmp_path: Path) -> None:
    write_byte_tokenizer(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [END_OF_TEXT, 5000]}))
    tokenizer = TextTokenizer.from_folder(tmp_path)
    assert 5000 in tokenizer.end_ids
    assert answer(tokenizer, ConstraintCompiler(tokenizer).compile(regex("(ab){1,2}")), seed=1) in {"ab", "abab"}


class UnreadableTokenizer(TextTokenizer):
    def to_json(self) -> str:
        return "{}"


def test_a_tokenizer_that_llguidance_cannot_read_is_named(tmp_path: Path) -> None:
    write_byte_tokenizer(tmp_path)
    with pytest.raises(InvalidParameter, match="this base model's tokenizer cannot be constrained"):
        ConstraintCompiler(UnreadableTokenizer.from_folder(tmp_path)).compile(regex("a"))
