"""Holds an answer to a JSON schema or a regular expression: which tokens may stand next, and when it is whole.

llguidance turns a constraint into an automaton over a tokenizer's texts; refusals are in its words. Knows nothing of
logits' values or of other rows. Axis letter V: vocabulary.
"""

import json
import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cached_property
from math import isfinite, lcm
from threading import Lock
from typing import Any, Final

import numpy as np
import torch
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from numpy.typing import NDArray
from torch import Tensor

from core.errors import GenerationFailed, InvalidParameter
from core.serving.generation import Constraint
from core.text.tokenizer import TextTokenizer

CACHED_CONSTRAINTS: Final = 64
REHEARSED_TOKENS: Final = 4  # expressions that outgrew the limits did so within two

# At these, hostile expressions such as ((a{100}){100}){100} were refused within 0.1 s and 50 MB, where llguidance's own
# defaults took ten times that; schemas of 1,500 properties and enums of 2,500 strings were taken.
LIMITS: Final = LLParserLimits(
    initial_lexer_fuel=100_000, max_lexer_states=20_000, max_grammar_size=100_000, verbose_errors=False
)

# llguidance follows references by recursion and checks no depth: in a thread with a stack of 8 MiB it crashed the
# process from about 2,500 levels on, where a level is one of the schema's own or one behind a reference.
MAX_LEVELS: Final = 1000

# An automaton for multiples of n has n states at least: 0.4 s and 30 MB at this one, and no end at 10^8.
MAX_MULTIPLE: Final = 100_000

# Unbounded white space between a JSON's tokens is where small models lose themselves until max_tokens.
JSON_SPACE: Final = r"[\x20\x0A\x0D\x09]{1,32}"

FIELDS: Final = {"json_schema": "response_format", "json_object": "response_format", "regex": "regex"}
REASON_CHARS: Final = 300


class ConstraintState:
    """How far one answer has come in following its constraint.

    Attributes:
        is_complete: the answer is whole and no text may follow.
    """

    def __init__(self, matcher: LLMatcher, end_ids: Sequence[int]) -> None:
        self._matcher = matcher
        self._end_ids = end_ids
        self._look()

    def copy(self) -> "ConstraintState":
        """Give a state that goes on by itself from here."""
        twin = object.__new__(ConstraintState)
        twin.__dict__ = {**self.__dict__, "_matcher": self._matcher.deep_copy()}
        return twin

    def forbid(self, logits_V: Tensor, ends: Sequence[int]) -> None:
        """Set to -inf, in place, all that may not follow; ``ends`` may where the answer is whole."""
        allowed_V = np.zeros(logits_V.shape[0], dtype=bool)
        known = min(len(self._allowed), len(allowed_V))  # the model's vocabulary can be larger or smaller
        allowed_V[:known] = self._allowed[:known]
        if self._matcher.is_accepting():
            allowed_V[[end for end in ends if end < len(allowed_V)]] = True
        logits_V.masked_fill_(torch.from_numpy(~allowed_V).to(logits_V.device), -torch.inf)

    def accept(self, token_id: int) -> None:
        """Go on behind a token, which is no end.

        Raises:
            GenerationFailed: the token may not stand here, or the automaton outgrew its limits.
        """
        self._matcher.consume_token(token_id)
        self._look()
        self._check()

    def rehearse(self, tokens: int) -> None:
        """Accept any tokens that may follow, to find out now what is found out only on the way; raises as `accept`."""
        self._check()
        for _ in range(tokens):
            if self._allowed.any():
                self.accept(int(self._allowed.argmax()))

    def _check(self) -> None:
        if self._matcher.is_error():
            raise GenerationFailed(f"the constraint cannot be followed: {_reason(self._matcher.get_error())}")

    def _look(self) -> None:
        """Find what may follow; ahead of its use, so that what goes wrong concerns this row alone."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._allowed: NDArray[np.bool_] = np.unpackbits(bits, bitorder="little").view(np.bool_)
        self._allowed[self._end_ids] = False  # they are no text; `forbid` knows which of them the request ends at
        self.is_complete: bool = self._matcher.is_accepting() and not self._allowed.any()


class ConstraintCompiler:
    """Makes constraints ready for one tokenizer; safe to share between threads."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        # a model's configuration can name an end that its tokenizer does not have
        self._end_ids = sorted(token_id for token_id in tokenizer.end_ids if token_id < tokenizer.vocab_size)
        self._lock = Lock()
        self._compiled: OrderedDict[Constraint, ConstraintState] = OrderedDict()  # least recently used first

    def compile(self, constraint: Constraint, param: str | None = None) -> ConstraintState:
        """Give the state at an answer's beginning. Takes milliseconds, at the worst about a second.

        Args:
            param: the request's field that a refusal names; None: by the kind of the constraint.

        Raises:
            InvalidParameter: the schema or expression is malformed, too large, or uses what cannot be followed.
        """
        param = param or FIELDS[constraint.kind]
        key = Constraint(kind=constraint.kind, value=constraint.value)
        with self._lock:
            known = self._compiled.get(key)
            if known is not None:
                self._compiled.move_to_end(key)
                return known.copy()
        state = self._begin(_grammar(constraint, param), param)
        with self._lock:
            self._compiled[key] = state
            while len(self._compiled) > CACHED_CONSTRAINTS:
                self._compiled.popitem(last=False)
            return state.copy()

    def _begin(self, grammar: str, param: str) -> ConstraintState:
        matcher = LLMatcher(self._vocabulary(param), grammar, log_level=0, limits=LIMITS)
        if matcher.is_error():
            raise InvalidParameter(param, f"cannot be followed: {_reason(matcher.get_error())}")
        state = ConstraintState(matcher, self._end_ids)
        if state.is_complete:
            raise InvalidParameter(param, "only an empty answer follows this; leave it out")
        try:
            state.copy().rehearse(REHEARSED_TOKENS)
        except GenerationFailed as error:
            raise InvalidParameter(param, str(error.args[0])) from error
        return state

    def _vocabulary(self, param: str) -> LLTokenizer:
        try:
            with self._lock:
                return self._token_texts
        except ValueError as error:
            reason = f"this base model's tokenizer cannot be constrained: {_reason(str(error))}"
            raise InvalidParameter(param, reason) from error

    @cached_property
    def _token_texts(self) -> LLTokenizer:
        """The texts of all tokens as llguidance wants them; a fourth of a second, so made when first needed."""
        return LLTokenizer(self._tokenizer.to_json(), eos_token=self._end_ids)


def _grammar(constraint: Constraint, param: str) -> str:
    if constraint.kind == "regex":
        return LLMatcher.grammar_from_regex(constraint.value)
    schema = {"type": "object"} if constraint.kind == "json_object" else _schema(constraint.value, param)
    try:
        return LLMatcher.grammar_from_json_schema(
            json.dumps(schema),
            # overrides what a schema's own "x-guidance" asks for, which could let unknown keywords pass
            overrides={"whitespace_pattern": JSON_SPACE, "lenient": False, "coerce_one_of": False},
        )
    except ValueError as error:  # it reads JSON more strictly: no NaN, no half of a surrogate pair
        raise InvalidParameter(param, f"cannot be followed: {error}") from error


def _schema(text: str, param: str) -> dict[str, Any]:
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidParameter(param, f"the schema is not JSON, or nested too deep: {error}") from error
    if not isinstance(schema, dict):
        raise InvalidParameter(param, "must be a JSON schema, which is an object")
    _refuse_endless(schema, param)
    return schema


def _refuse_endless(schema: dict[str, Any], param: str) -> None:
    """Refuse what llguidance would not refuse but crash at, or hang."""
    nodes = list(_nodes(schema))
    references = {node[key] for node, _ in nodes for key in node if key == "$ref" and isinstance(node[key], str)}
    bases = 1 + sum(
        "$id" in node for node, _ in nodes
    )  # what one reference can mean depends on the base it stands under
    levels = max(depth for _, depth in nodes) * (1 + len(references) * bases)
    if levels > MAX_LEVELS:
        reason = (
            f"depth times references is {levels:,}, and at most {MAX_LEVELS:,} are followed; make the schema simpler"
        )
        raise InvalidParameter(param, reason)
    steps = [Fraction(str(node["multipleOf"])) for node, _ in nodes if _is_number(node.get("multipleOf"))]
    scale = lcm(*(step.denominator for step in steps))
    if lcm(*(int(step * scale) for step in steps)) > MAX_MULTIPLE:
        reason = f"multipleOf: the least common multiple of all must be at most {MAX_MULTIPLE:,} of their smallest unit"
        raise InvalidParameter(param, reason)


def _nodes(schema: dict[str, Any]) -> Iterator[tuple[dict[str, Any], int]]:
    """Give each object in a JSON value with its depth; lists count as levels too."""
    left: list[tuple[Any, int]] = [(schema, 1)]
    while left:
        value, depth = left.pop()
        if isinstance(value, dict):
            yield value, depth
        children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        left += [(child, depth + 1) for child in children]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _reason(message: str) -> str:
    """Give the gist of one of llguidance's messages, which repeat the grammar and point into it over many lines."""
    if message.startswith("NoExtension"):
        return "no text fits it"
    error = re.search(r"^error: (.*)", message, re.MULTILINE)
    text = error[1] if error else message.split("\n   1 | ")[0].split("<non-verbose/>")[0]
    text = " ".join(re.sub(r'^at \d+\(\d+\): invalid regex ".*" \(in regex\): ', "", text, flags=re.DOTALL).split())
    return text if len(text) <= REASON_CHARS else text[:REASON_CHARS] + "…"
