"""Prompt formats: Mustache templates over a file's columns, without HTML escaping, partials or code.

Renders text only; what the text becomes is ``core.text.rendering``'s.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from typing import Any

from pystache.context import ContextStack, KeyNotFoundError
from pystache.parser import ParsingError, parse
from pystache.renderengine import RenderEngine

from core.errors import InvalidParameter
from core.text.render_settings import PromptFormat

MAX_RENDERED_CHARS = 2**22
MAX_SECTIONS = 64  # also bounds how deep rendering recurses
LOOKUP_CHARS = 32  # a name's look-up takes as long as writing many characters: it tries each enclosing section
COLUMNS_NAMED = 20  # in an error

# Every {{ must open one of these. pystache's own expression takes time that grows with the fourth power
# of the white space after a {{ that opens no tag (0.6.8: 22 s for 500 spaces), so it never gets to see one.
TAG = re.compile(
    r"""
    \{\{\{ [ \t]{0,20} [^{}\s]          [^{}\r\n]{0,200} \}\}\}   # {{{name}}}
    | \{\{ [#^/&!]? [ \t]{0,20} [^{}\s=#^/&!>] [^{}\r\n]{0,200} \}\}
    """,
    re.VERBOSE,
)
LONG_BLANKS = re.compile(r"[ \t]{500}")  # these take it quadratic time even outside of tags


class TemplateProblem(Exception):
    """A template is malformed, or cannot be rendered with the values given; ``str()`` names the column."""


class Template:
    """One parsed template. Rendering fails on a missing column, and on a null where a text is wanted.

    A value that is true or false is written as JSON does; a list or an object needs a section.

    Attributes:
        columns: the columns named outside sections.
        names: all names, those inside sections too: a section's items have some of them, columns the others.

    Raises:
        TemplateProblem: the template's own syntax is wrong.
    """

    def __init__(self, source: str) -> None:
        _check_tags(source)
        try:
            self._parsed = parse(source, raise_on_mismatch=True)
        except ParsingError as error:
            raise TemplateProblem(str(error)) from error
        self._source_chars = len(source)
        tags = _TagCollector()
        self._parsed.render(tags, tags)
        self.columns = tuple(dict.fromkeys(tags.columns))
        self.names = frozenset(tags.names)

    def render(self, values: Mapping[str, Any]) -> str:
        """Fill in the values.

        Raises:
            TemplateProblem: a column is missing, or its value cannot be written, or too much text came out.
        """
        budget = _Budget(self._source_chars)

        def resolve(stack: ContextStack, name: str) -> Any:
            budget.spend(LOOKUP_CHARS)
            value = stack.get(name)
            return _CountedItems(value, budget) if isinstance(value, list) else value

        # The engine rather than pystache.Renderer: only here can {{{name}}} be counted, and a null be named.
        engine = _Engine(literal=budget.take, escape=budget.take, resolve_context=resolve)
        try:
            budget.spend(self._source_chars)
            return str(self._parsed.render(engine, ContextStack(dict(values))))
        except KeyNotFoundError as error:
            raise TemplateProblem(f'there is no column "{error.key}"') from error


class PromptTemplates:
    """A prompt format's two templates, parsed.

    Raises:
        InvalidParameter: one of them is malformed; names ``prompt_format.prompt`` or ``prompt_format.completion``.
    """

    def __init__(self, prompt_format: PromptFormat) -> None:
        self.prompt = _parse(prompt_format.prompt, "prompt_format.prompt")
        self.completion = _parse(prompt_format.completion, "prompt_format.completion")


def check_prompt_format(prompt_format: PromptFormat, columns: Collection[str]) -> None:
    """Refuse templates that are malformed, or name a column that not every example has.

    Names inside a section may belong to the section's items, so they are not checked.

    Raises:
        InvalidParameter: with ``prompt_format.prompt`` or ``prompt_format.completion``.
    """
    templates = PromptTemplates(prompt_format)
    for param, template in (
        ("prompt_format.prompt", templates.prompt),
        ("prompt_format.completion", templates.completion),
    ):
        if not template.columns:
            raise InvalidParameter(param, "the template names no column; write one as {{name}}")
        missing = [name for name in template.columns if name not in columns]
        if missing:
            there = [name if len(name) <= 60 else f"{name[:57]}..." for name in islice(columns, COLUMNS_NAMED)]
            more = ", …" * (len(columns) > COLUMNS_NAMED)
            reason = (
                f'not every example has a column "{missing[0]}"; all of them have: {", ".join(there) or "none"}{more}'
            )
            raise InvalidParameter(param, reason)


def _parse(source: str, param: str) -> Template:
    try:
        return Template(source)
    except TemplateProblem as problem:
        raise InvalidParameter(param, str(problem)) from problem


class _Engine(RenderEngine):  # type: ignore[misc]  # pystache has no types
    def fetch_string(self, context: ContextStack, name: str) -> str:
        value = self.resolve_context(context, name)
        match value:
            case str():
                return value
            case bool():
                return "true" if value else "false"
            case int() | float():
                return str(value)
            case None:
                raise TemplateProblem(f'column "{name}" is null where a text is wanted')
            case _:
                raise TemplateProblem(
                    f'column "{name}" is a list or an object; write it with a section, {{{{#{name}}}}}'
                )


class _Budget:
    """Counts the text a rendering may produce and the work it may take, both from above.

    A pass through a section counts as the whole template, a name's look-up as `LOOKUP_CHARS`.
    """

    def __init__(self, pass_chars: int) -> None:
        self.pass_chars = pass_chars
        self._left = MAX_RENDERED_CHARS

    def spend(self, chars: int) -> None:
        self._left -= chars
        if self._left < 0:
            raise TemplateProblem(f"the template produces more than {MAX_RENDERED_CHARS:,} characters")

    def take(self, text: str) -> str:
        self.spend(len(text))
        return text


class _CountedItems:
    """A list as a section sees it: each item, when iterated, costs one pass through the template."""

    def __init__(self, items: list[Any], budget: _Budget) -> None:
        self._items = items
        self._budget = budget

    def __bool__(self) -> bool:
        return bool(self._items)

    def __iter__(self) -> Iterator[Any]:
        for item in self._items:
            self._budget.spend(self._budget.pass_chars)
            yield item


class _TagCollector:
    """Walks a parsed template in the place of both engine and context, and keeps the names it meets.

    Every section is entered exactly once. Names count as columns outside sections only.
    """

    def __init__(self) -> None:
        self.columns: list[str] = []
        self.names: set[str] = set()
        self._depth = 0
        self._sections = 0

    def fetch_string(self, _context: object, name: str) -> str:
        self._keep(name)
        return ""

    def fetch_section_data(self, _context: object, name: str) -> list[str]:
        self._enter(name)
        return [name]

    def resolve_context(self, _context: object, name: str) -> bool:
        self._enter(name)
        return False  # renders an inverted section

    def escape(self, text: str) -> str:
        return text

    literal = escape

    def push(self, _item: object) -> None:
        self._depth += 1

    def pop(self) -> None:
        self._depth -= 1

    def _enter(self, name: str) -> None:
        self._keep(name)
        self._sections += 1
        if self._sections > MAX_SECTIONS:
            raise TemplateProblem(f"the template has more than {MAX_SECTIONS} sections")

    def _keep(self, name: str) -> None:
        first = name.split(".")[0] or name
        self.names.add(first)
        if self._depth == 0:
            self.columns.append(first)


def _check_tags(source: str) -> None:
    """Let only those templates through that pystache parses in linear time and as their author meant."""
    if LONG_BLANKS.search(source):
        raise TemplateProblem("the template has 500 or more spaces or tabs in a row")
    at = 0
    while (at := source.find("{{", at)) >= 0:
        tag = TAG.match(source, at)
        if tag is None:
            raise TemplateProblem(
                f"{source[at : at + 20]!r} at character {at + 1} is not supported; the tags are {{{{name}}}}, "
                "{{{name}}}, {{#name}}…{{/name}}, {{^name}}…{{/name}} and {{! a comment}}"
            )
        at = tag.end()
