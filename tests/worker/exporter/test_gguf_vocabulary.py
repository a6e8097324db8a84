"""Vocabularies in GGUF: of real tokenizers, as others have written them, and read back."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader, GGUFWriter, TokenType

from core.base_models.registry import BUILT_IN, GgufPackage, read_config
from core.errors import ExportDiffers
from core.evaluations.general_text import PASSAGES
from core.text.tokenizer import TextTokenizer
from tests.harness.models.byte_tokenizer import write_byte_tokenizer
from worker.exporter.gguf_vocabulary import add_vocabulary, require_same_vocabulary

TEXTS = [*(text for _, text in PASSAGES), "10  20\n\n\tif x == 1234:\n        pass", "<|im_end|> und ein Ende", " 🙂 "]


@contextmanager
def written(folder: Path, tokenizer: TextTokenizer, rows: int) -> Iterator[GGUFReader]:
    path = folder / "vocabulary.gguf"
    writer = GGUFWriter(path, "llama")
    add_vocabulary(writer, tokenizer, rows)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    yield GGUFReader(path)


def said_of_tokenizer(reader: GGUFReader) -> dict[str, Any]:
    return {name: field.contents() for name, field in reader.fields.items() if name.startswith("tokenizer.")}


def test_smollm2s_is_told_as_its_own_file_tells_it(tmp_path: Path, smollm2_folder: Path) -> None:
    tokenizer = TextTokenizer.from_folder(smollm2_folder)
    [source] = [entry.source for entry in BUILT_IN if entry.name == smollm2_folder.name]
    assert isinstance(source, GgufPackage)
    spec = find_spec(source.package)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    theirs = said_of_tokenizer(GGUFReader(Path(spec.submodule_search_locations[0]) / source.file))
    with written(tmp_path, tokenizer, read_config(smollm2_folder)["vocab_size"]) as reader:
        assert said_of_tokenizer(reader) == theirs
        require_same_vocabulary(reader, tokenizer, TEXTS)


def test_phi2s_cuts_texts_as_phi2_does(tmp_path: Path, phi2_folder: Path) -> None:
    tokenizer = TextTokenizer.from_folder(phi2_folder)
    with written(tmp_path, tokenizer, 51200) as reader:
        require_same_vocabulary(reader, tokenizer, TEXTS)
        said = said_of_tokenizer(reader)
    assert said["tokenizer.ggml.pre"] == "gpt-2"
    # runs of spaces are added to the vocabulary, and special to nobody
    assert {TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNUSED} <= set(said["tokenizer.ggml.token_type"])


@pytest.fixture
def tokenizer(tmp_path: Path) -> TextTokenizer:
    write_byte_tokenizer(tmp_path)
    return TextTokenizer.from_folder(tmp_path)


def test_all_tokens_that_end_an_answer_are_told(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    with written(tmp_path, tokenizer, 320) as reader:
        said = said_of_tokenizer(reader)
    assert (said["tokenizer.ggml.eos_token_id"], said["tokenizer.ggml.eot_token_id"]) == (256, 258)
    assert said["tokenizer.ggml.tokens"][256:261] == [
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "[PAD259]",
        "[PAD260]",
    ]
    assert said["tokenizer.chat_template"] == tokenizer.chat_template


@pytest.mark.parametrize(
    ("method", "value", "words"),
    [
        ("add_eos_token_id", 258, "ends answers with token 258"),
        ("add_eot_token_id", 257, "ends answers with token 256"),
        ("add_add_bos_token", True, "begins texts otherwise"),
        ("add_chat_template", "{{ messages }}", "another chat template"),
        ("add_token_list", ["x"] * 320, "cuts"),
    ],
)
def test_what_is_told_otherwise_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: TextTokenizer, method: str, value: object, words: str
) -> None:
    own = getattr(GGUFWriter, method)
    monkeypatch.setattr(GGUFWriter, method, lambda writer, _: own(writer, value))
    with written(tmp_path, tokenizer, 320) as reader, pytest.raises(ExportDiffers, match=words):
        require_same_vocabulary(reader, tokenizer, ["Hello"])
