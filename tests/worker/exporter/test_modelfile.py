"""Modelfiles: Go's words for a chat template, and what is left out where there are none."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from core.serving.adapter_format import AdapterOrigin, Manifest
from core.text.chat_template import ChatTemplate
from core.text.files.examples import Message
from core.text.render_settings import PromptFormat
from core.text.tokenizer import TextTokenizer
from tests.harness.models.byte_tokenizer import CHAT_TEMPLATE, write_byte_tokenizer
from worker.exporter.modelfile import find_words, write_modelfile

WITH_DEFAULT = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CONVERSATIONS = (
    [Message("user", "a")],
    [Message("system", "s"), Message("user", "a")],
    [Message("user", "a"), Message("assistant", "b"), Message("user", "c")],
)


def in_go(template: str, messages: Sequence[Message]) -> str:
    """Run the few words of Go's templates that are written here, as text/template does."""
    default = re.match(r"{{ if not \.System }}(.*?){{ end }}", template, re.DOTALL)
    rest = template[default.end() :] if default else template
    loop = re.fullmatch(r"{{ range \.Messages }}(.*){{ end }}{{ end }}(.*)", rest, re.DOTALL)
    assert loop is not None
    branches = re.findall(
        r'{{ (?:else )?if eq \.Role "(\w+)" }}(.*?){{ \.Content }}(.*?)(?={{ else|\Z)', loop[1], re.DOTALL
    )
    around = {role: (before, after) for role, before, after in branches}
    has_system = any(message.role == "system" for message in messages)
    turns = [f"{around[message.role][0]}{message.content}{around[message.role][1]}" for message in messages]
    return ("" if has_system or default is None else default[1]) + "".join(turns) + loop[2]


@pytest.mark.parametrize("source", [CHAT_TEMPLATE, WITH_DEFAULT])
@pytest.mark.parametrize("messages", CONVERSATIONS, ids=len)
def test_go_writes_a_conversation_as_the_chat_template_does(source: str, messages: list[Message]) -> None:
    template = ChatTemplate(source, {})
    words = find_words(template)
    assert words is not None
    assert in_go(words.to_go(), messages) == template.render(messages, add_generation_prompt=True)


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[-1]['content'] }}",
        "{% for message in messages %}{{ loop.index }}{{ message['content'] }}{% endfor %}",
        "{% for message in messages %}{% if message['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}"
        "{{ message['content'] }}{% endfor %}",
        "{% for message in messages %}{{ '{{' + message['content'] }}{% endfor %}",
    ],
    ids=["leaves messages out", "counts", "refuses a system message", "Go would take it for its own"],
)
def test_a_template_that_does_more_has_no_words(source: str) -> None:
    assert find_words(ChatTemplate(source, {})) is None


def _manifest(**says: Any) -> Manifest:
    said: dict[str, Any] = {
        "base_model": "tiny",
        "base_model_fingerprint": "f" * 64,
        "tokenizer_sha256": "a" * 64,
        "chat_template_sha256": None,
        "example_format": "messages",
        "prompt_format": None,
        "prompts": (),
        "job_id": "ftjob-x",
        "step": 1,
        "trained_on": "",
        "lora": None,
        "files": {},
    }
    origin = {name: value for name, value in (said | says).items() if name in AdapterOrigin.model_fields}
    return Manifest(**origin, files={})


@pytest.fixture
def tokenizer(tmp_path: Path) -> TextTokenizer:
    write_byte_tokenizer(tmp_path)
    return TextTokenizer.from_folder(tmp_path)


def test_every_token_that_ends_an_answer_stops_it(tokenizer: TextTokenizer) -> None:
    lines = write_modelfile("model.gguf", _manifest(), tokenizer, is_adapter=False).splitlines()
    assert lines[0] == "FROM ./model.gguf"
    assert 'PARAMETER stop "<|endoftext|>"' in lines
    assert 'PARAMETER stop "<|im_end|>"' in lines


def test_prompts_that_were_fed_as_they_are_are_fed_so(tokenizer: TextTokenizer) -> None:
    written = write_modelfile("model.gguf", _manifest(example_format="prompt_completion"), tokenizer, is_adapter=False)
    assert 'TEMPLATE """{{ .Prompt }}"""' in written
    asked = PromptFormat(prompt="{{q}}", completion="{{a}}")
    written = write_modelfile(
        "model.gguf", _manifest(example_format="columns", prompt_format=asked), tokenizer, is_adapter=False
    )
    assert "written by the prompt format in manifest.json" in written


def test_an_adapter_names_the_base_model_that_it_needs(tokenizer: TextTokenizer) -> None:
    lines = write_modelfile("adapter.gguf", _manifest(), tokenizer, is_adapter=True).splitlines()
    assert lines[1:3] == ["FROM ./tiny.gguf", "ADAPTER ./adapter.gguf"]
