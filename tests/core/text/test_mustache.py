import sys
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pystache.context import ContextStack

from core.errors import InvalidParameter
from core.text.mustache import (
    LOOKUP_CHARS,
    MAX_RENDERED_CHARS,
    MAX_SECTIONS,
    Template,
    TemplateProblem,
    check_prompt_format,
)
from core.text.render_settings import PromptFormat


def test_renders_the_question_references_answer_text() -> None:
    template = Template("Question: {{question}}\nReferences:\n{{#references}}\n- {{title}}\n{{/references}}\nAnswer:")
    values = {"question": "Is 1 < 2 & 'so'?", "references": [{"title": "<Sums>"}, {"title": '"More"'}]}
    assert template.render(values) == ("Question: Is 1 < 2 & 'so'?\nReferences:\n- <Sums>\n- \"More\"\nAnswer:")


@given(st.text())
def test_a_value_is_written_as_it_is_even_if_it_looks_like_a_template(value: str) -> None:
    assert Template("[{{a}}|{{{a}}}|{{&a}}]").render({"a": value}) == f"[{value}|{value}|{value}]"


@pytest.mark.parametrize(
    ("value", "text"), [(True, "true"), (False, "false"), (0, "0"), (12, "12"), (1.5, "1.5"), ("", "")]
)
def test_booleans_and_numbers_are_written_as_json(value: object, text: str) -> None:
    assert Template("{{a}}").render({"a": value}) == text


@pytest.mark.parametrize(
    ("source", "values", "part"),
    [
        ("{{a}}", {}, 'no column "a"'),
        ("{{#a}}x{{/a}}", {}, 'no column "a"'),
        ("{{a}}", {"a": None}, 'column "a" is null'),
        ("{{{a}}}", {"a": None}, 'column "a" is null'),
        ("{{a}}", {"a": ["x"]}, "with a section, {{#a}}"),
        ("{{a.upper}}", {"a": "x"}, 'no column "a.upper"'),
        ("{{a.pop}}", {"a": ["x"]}, 'no column "a.pop"'),
        ("{{#a}}{{append}}{{/a}}", {"a": [["x"]]}, 'no column "append"'),
    ],
)
def test_values_that_cannot_be_written_name_their_column(source: str, values: dict[str, Any], part: str) -> None:
    with pytest.raises(TemplateProblem) as caught:
        Template(source).render(values)
    assert part in str(caught.value)


def test_null_leaves_a_section_out() -> None:
    assert Template("a{{#b}}{{b}}{{/b}}{{^b}}none{{/b}}").render({"b": None}) == "anone"


@pytest.mark.parametrize(
    "source",
    [
        "{{#a}}",
        "{{/a}}",
        "{{> /etc/passwd}}",
        "{{=<% %>=}}",
        "{{}}",
        "{{ }}{{a}}",
        "{{{a}}",
        "{{a",
        "{{#a}}" * 100 + "{{/a}}" * 100,
        "{{^a}}" * 3000 + "{{/a}}" * 3000,
    ],
)
def test_malformed_templates_are_refused(source: str) -> None:
    with pytest.raises(TemplateProblem):
        Template(source)


@pytest.mark.parametrize("source", ["{{" + " " * 19_000, "{{a}}{{" + " " * 499, "{{a" + " " * 490, " " * 20_000])
def test_templates_that_would_take_minutes_to_parse_are_refused(source: str) -> None:
    with pytest.raises(TemplateProblem):
        Template(source)


@pytest.mark.parametrize("source", ["{{#a}}" * 5 + "x" + "{{/a}}" * 5, "{{b}}" * 1000, "{{{b}}}" * 1000])
def test_output_is_limited_while_it_is_made(source: str) -> None:
    values = {"a": list(range(1000)), "b": "y" * (MAX_RENDERED_CHARS // 999)}
    with pytest.raises(TemplateProblem, match="more than 4,194,304"):
        Template(source).render(values)


NESTED: dict[str, Any] = {"a": 1}
for _ in range(60):
    NESTED = {"a": NESTED}


@pytest.mark.parametrize(
    ("source", "values"),
    [
        ("{{#a}}{{#.}}{{#.}}x{{/.}}{{/.}}{{/a}}", {"a": [[[1] * 100] * 100] * 100}),
        ("{{#a}}" + "y" * 19_000 + "{{/a}}", {"a": [1] * 100_000}),
        ("{{#a}}" * 20 + "x" + "{{/a}}" * 20, {"a": [1] * 10}),
        ("{{#a}}{{/a}}", {"a": [0] * 1_000_000}),
        ("{{#a}}" + "{{^b}}{{/b}}" * 60 + "{{/a}}", {"a": [0] * 1_000_000, "b": 0}),
        ("{{#a}}" + "{{! nothing }}" * 1000 + "{{/a}}", {"a": [0] * 1_000_000}),
        ("{{#a}}{{b.a.a.a.a.a.a}}{{/a}}", {"a": [0] * 1_000_000, "b": {"a": {"a": {"a": {"a": {"a": {"a": ""}}}}}}}),
        ("{{#a}}{{.}}{{/a}}", {"a": [""] * 1_000_000}),
        # sections that a number or a text opens cost no pass of their own, but make every look-up inside longer
        ("{{#b}}" * 62 + "{{#a}}" + "{{c}}" * 3600 + "{{/a}}" + "{{/b}}" * 62, {"a": [1] * 300, "b": 1, "c": ""}),
        ("{{#b}}" * 62 + "{{c}}" * 3600 + "{{/b}}" * 62, {"b": "y", "c": "y" * 2000}),
    ],
)
def test_the_work_of_rendering_is_limited_whatever_the_data(
    source: str, values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    lookups = 0
    get = ContextStack.get

    def counted(stack: ContextStack, name: str) -> Any:
        nonlocal lookups
        lookups += 1
        return get(stack, name)

    monkeypatch.setattr(ContextStack, "get", counted)
    with pytest.raises(TemplateProblem, match="more than 4,194,304"):
        Template(source).render(values)
    assert lookups <= MAX_RENDERED_CHARS // LOOKUP_CHARS


@pytest.mark.parametrize(
    ("source", "values"),
    [
        ("{{#a}}" * MAX_SECTIONS + "x" + "{{/a}}" * MAX_SECTIONS, NESTED),
        ("{{#a}}" * MAX_SECTIONS + "x" + "{{/a}}" * MAX_SECTIONS, {"a": "text"}),
        ("{{#a}}" + "{{#.}}" * (MAX_SECTIONS - 1) + "x" + "{{/.}}" * (MAX_SECTIONS - 1) + "{{/a}}", {"a": 1}),
        ("{{^a}}" * MAX_SECTIONS + "x" + "{{/a}}" * MAX_SECTIONS, {"a": None}),
    ],
)
def test_as_many_sections_as_are_allowed_leave_half_of_the_recursion_limit_free(
    source: str, values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def at_depth(frames: int) -> str:
        return at_depth(frames - 1) if frames else Template(source).render(values)

    assert at_depth(sys.getrecursionlimit() // 2) == "x"


def test_an_item_inside_a_text_or_a_number_is_not_looked_into() -> None:
    assert Template("{{#a}}[{{.}}]{{/a}}").render({"a": "xyz"}) == "[xyz]"
    assert Template("{{#a}}{{#b}}{{.}}{{/b}}{{/a}}").render({"a": {"b": 2}}) == "2"


FRAGMENTS = ["{{", "}}", "{{{", "}}}", "#", "^", "/", "a", ".", "=", " ", "\n", ">", "!", "{{#a}}", "{{/a}}", "{{a}}"]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=6,
)


@given(
    source=st.lists(st.sampled_from(FRAGMENTS), max_size=14).map("".join),
    values=st.dictionaries(st.sampled_from("ab"), VALUES),
)
def test_any_template_and_values_render_or_are_refused(source: str, values: dict[str, Any]) -> None:
    with suppress(TemplateProblem):
        assert isinstance(Template(source).render(values), str)


class TestCheckPromptFormat:
    def test_allows_columns_every_example_has(self) -> None:
        prompt_format = PromptFormat(
            prompt="{{q}} {{#refs}}{{title}} {{.}}{{/refs}}{{^refs}}{{q}}{{/refs}}", completion="{{a.b}}"
        )
        check_prompt_format(prompt_format, ("q", "refs", "a"))

    def test_names_few_of_many_columns(self) -> None:
        columns = [f"column {n} {'x' * 10_000}" for n in range(1000)]
        with pytest.raises(InvalidParameter) as caught:
            check_prompt_format(PromptFormat(prompt="{{q}}", completion="{{a}}"), columns)
        assert len(str(caught.value)) < 2000

    @pytest.mark.parametrize(
        ("prompt", "completion", "param", "part"),
        [
            ("{{q}} {{missing}}", "{{a}}", "prompt_format.prompt", 'a column "missing"; all of them have: q, a'),
            ("{{q}}", "{{^b}}x{{/b}}", "prompt_format.completion", '"b"'),
            ("{{^q}}{{b}}{{/q}}", "{{a}}", "prompt_format.prompt", '"b"'),
            ("{{q", "{{a}}", "prompt_format.prompt", "not supported"),
            ("{{q}}", "always the same", "prompt_format.completion", "names no column"),
        ],
    )
    def test_names_the_template_and_what_is_missing(self, prompt: str, completion: str, param: str, part: str) -> None:
        with pytest.raises(InvalidParameter) as caught:
            check_prompt_format(PromptFormat(prompt=prompt, completion=completion), ("q", "a"))
        assert caught.value.param == param
        assert part in str(caught.value)
