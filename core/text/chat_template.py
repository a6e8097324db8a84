"""Runs a base model's chat template, and cuts what it writes into prompts and answers.

Jinja's sandbox runs it. What it writes has a limit, and a range has Jinja's of 100,000 numbers; loops inside loops
have none. That is enough, as a template is the operator's, who chose it with the base model's weights, and what others
give to it is bounded: messages by their number, as the time of a loop over them, and of `ChatTemplate.cut`, grows with
it. Gives text; knows no token ids.
"""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from core.errors import BaseModelInvalid
from core.text.files.examples import Message

MAX_RENDERED_CHARS = 2**22


class ChatTemplateProblem(Exception):
    """The template refuses these messages, or fails on them."""


class ChatTemplate:
    """A chat template as transformers runs one, less what would make a rendering depend on the day.

    Raises:
        BaseModelInvalid: the template is not Jinja.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        self._template = _compiled(source)
        self._special_tokens = dict(special_tokens)

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
        """Write out a conversation, with the words that ask for the assistant's answer if wanted.

        Raises:
            ChatTemplateProblem: the template refuses the messages, fails, or writes too much.
        """
        turns = [{"role": message.role, "content": message.content} for message in messages]
        parts: list[str] = []
        chars = 0
        try:
            for part in self._template.generate(
                messages=turns,
                add_generation_prompt=add_generation_prompt,
                tools=None,
                documents=None,
                **self._special_tokens,
            ):
                parts.append(part)
                chars += len(part)
                if chars > MAX_RENDERED_CHARS:
                    raise ChatTemplateProblem(f"the chat template writes more than {MAX_RENDERED_CHARS:,} characters")
        except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError, OverflowError) as error:
            raise ChatTemplateProblem(f"the chat template refuses these messages: {error}") from error
        return "".join(parts)

    def cut(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> list[str]:
        """Write out a conversation in pieces: prompt, answer, prompt, answer, …, and what follows the last answer.

        An answer is one assistant message's text. It begins where the rendering of the messages before
        it, with the words that ask for an answer, ends. So each prompt is what inference would write,
        and joined the pieces are the whole rendering.

        Raises:
            ChatTemplateProblem: as in `render`, or the template writes the beginning of a conversation
                differently once more follows, or changes an answer.
        """
        pieces: list[str] = []
        done = ""
        for index, message in enumerate(messages):
            if message.role == "assistant":
                asked = self.render(messages[:index], add_generation_prompt=True)
                answered = self.render(messages[: index + 1], add_generation_prompt=False)
                answer = _answer(_after(asked, answered), message.content)
                pieces += [_after(done, asked), answer]
                done = asked + answer
        return [*pieces, _after(done, self.render(messages, add_generation_prompt=add_generation_prompt))]


@lru_cache(maxsize=16)  # one for each base model, of which each request has a renderer of its own
def _compiled(source: str) -> Template:
    # trim_blocks, lstrip_blocks, loop controls, raise_exception and tojson are what templates are
    # written for (transformers 5.23, utils/chat_template_utils.py). strftime_now is left out: with
    # it a prompt served tomorrow would not be the prompt trained today.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, loopcontrols]
    )
    environment.globals["raise_exception"] = _raise_exception
    environment.filters["tojson"] = _to_json
    try:
        return environment.from_string(source)
    except TemplateError as error:
        raise BaseModelInvalid(f"the base model's chat template is malformed: {error}") from error


class _GenerationBlock(Extension):
    """Reads ``{% generation %}…{% endgeneration %}``, which marks answers in some templates, as its content."""

    tags = {"generation"}  # noqa: RUF012  # Jinja's own way of declaring it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _after(beginning: str, rendering: str) -> str:
    if not rendering.startswith(beginning):
        raise ChatTemplateProblem(
            "the base model's chat template is not prefix-stable: it writes the beginning of this conversation "
            "differently once more follows, so the prompt served would not be the prompt trained; "
            "use prompt and completion instead"
        )
    return rendering[len(beginning) :]


def _answer(rest: str, content: str) -> str:
    """Take the answer from the start of ``rest``; templates may strip it and put white space before it."""
    if rest.startswith(content):
        return content
    space = rest[: len(rest) - len(rest.lstrip())]
    answer = space + content.strip()
    if not rest.startswith(answer):
        raise ChatTemplateProblem(
            f"the base model's chat template changes an answer's text: {content[:40]!r} became {rest[:40]!r}"
        )
    return answer


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)
