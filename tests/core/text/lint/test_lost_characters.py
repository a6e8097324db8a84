"""Characters that become no token, or another character: SmolLM2's vocabulary lacks some bytes."""

import json

import pytest

from core.text.files.examples import Chat, Columns, Example, Message, PromptCompletion
from core.text.lint import lost_characters
from core.text.lint.kinds import Severity
from core.text.lint.linter import Report, lint
from core.text.lint.lost_characters import LostCharacters
from core.text.render_settings import PromptFormat, RenderSettings
from core.text.rendering import Renderer
from core.text.tokenizer import TextTokenizer
from tests.harness.models.byte_tokenizer import write_byte_tokenizer

FORMAT = PromptFormat(prompt="{{q}}", completion="{{a}}")


@pytest.fixture(scope="module")
def lacking(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    """Give a tokenizer without the bytes 0x13 and 0xA9; the latter is the last of U+00E9."""
    folder = tmp_path_factory.mktemp("lacking")
    write_byte_tokenizer(folder)
    description = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = description["model"]["vocab"]
    # under a name that no byte has: each id stays as it is
    description["model"]["vocab"] = {f"-{id}-" if id in (0x13, 0xA9) else name: id for name, id in vocabulary.items()}
    (folder / "tokenizer.json").write_text(json.dumps(description))
    return TextTokenizer.from_folder(folder)


def lint_with(tokenizer: TextTokenizer, *examples: Example, **settings: PromptFormat) -> Report:
    return lint(examples, Renderer(tokenizer, RenderSettings(**settings)))


@pytest.mark.parametrize(
    ("example", "settings"),
    [
        (PromptCompletion(3, "a\x13b", "c"), {}),
        (PromptCompletion(3, "a", "c\x13"), {}),
        (Chat(3, (Message("user", "\x13"), Message("assistant", "yo"))), {}),
        (Columns(3, {"q": "a\x13", "a": "c"}), {"prompt_format": FORMAT}),
    ],
)
def test_they_are_said_with_line_and_code_point(
    lacking: TextTokenizer, example: Example, settings: dict[str, PromptFormat]
) -> None:
    [finding] = lint_with(lacking, example, **settings).findings
    assert (finding.code, finding.severity, finding.lines) == ("lost_characters", Severity.WARNING, (3,))
    assert "1 example, in training as in serving. The first, line 3: U+0013." in finding.message


def test_a_character_of_which_a_part_is_lost_is_lost(lacking: TextTokenizer) -> None:
    assert LostCharacters(lacking).find("café") == {"é"}


def test_every_text_is_told_of_though_a_character_is_tried_once(lacking: TextTokenizer) -> None:
    lost = LostCharacters(lacking)
    assert [lost.find(text) for text in ("a\x13", "b", "\x13\x13", "")] == [{"\x13"}, set(), {"\x13"}, set()]


def test_none_are_where_every_byte_has_a_token(byte_tokenizer: TextTokenizer) -> None:
    every = "".join(map(chr, range(1, 0x3000))) + "\N{SLIGHTLY SMILING FACE}\N{COMBINING ACUTE ACCENT}"
    assert LostCharacters(byte_tokenizer).find(every) == set()


def test_smollm2_drops_a_control_character(smollm2: TextTokenizer) -> None:
    assert LostCharacters(smollm2).find("Grüße \x13 日本語 🙂\n\t") == {"\x13"}


def test_a_file_costs_its_alphabet_and_not_its_length(lacking: TextTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    encode = lacking.encode

    def counted(text: str) -> list[int]:
        tried.append(text)
        return encode(text)

    monkeypatch.setattr(lacking, "encode", counted)
    lost = LostCharacters(lacking)
    for _ in range(1000):
        lost.find("abc\x13")
    assert len(tried) <= 1 + 2 * 4


def test_an_alphabet_without_end_is_not_tried_to_its_end(
    lacking: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lost_characters, "LARGEST_ALPHABET", 3)
    lost = LostCharacters(lacking)
    assert [lost.find(text) for text in ("abc", "\x13", "a")] == [set(), set(), set()]
