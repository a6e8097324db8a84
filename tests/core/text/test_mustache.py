from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InvalidParameter
from core.jobs import PromptFormat
from core.text.mustache import MAX_RENDERED_CHARS, Template, TemplateProblem, check_prompt_format


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
