"""GGUF files against other readers than ours: transformers' own, and the gguf package's words for adapters."""

from pathlib import Path

import pytest
import torch
from gguf import GGUFReader
from transformers import AutoModelForCausalLM, GgufConfig

from core.base_models.architectures.llama import LLAMA
from tests.worker.exporter.exports import TinyExport
from worker.exporter.gguf_names import GgufNames
from worker.exporter.gguf_reading import GgufFile, read_model
from worker.exporter.oracle import load_base, merged_by_peft, with_adapter


@pytest.mark.parametrize("type_", ["f16", "bf16", "q8_0"])
def test_transformers_reads_the_same_weights_from_it(tmp_path: Path, type_: str) -> None:
    export = TinyExport(tmp_path, "llama")
    export.make(format="gguf", type=type_)
    theirs = AutoModelForCausalLM.from_pretrained(
        export.result,
        gguf_file="model.gguf",
        local_files_only=True,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    ours, _ = read_model(GgufFile(export.result / "model.gguf"))
    told = theirs.state_dict()
    assert told.keys() == ours.state_dict().keys()
    assert [name for name, tensor in ours.state_dict().items() if not torch.equal(tensor, told[name])] == []
    ids = torch.tensor([export.tokenizer.encode("Hello there")])
    with torch.inference_mode():
        assert torch.equal(theirs(ids).logits, ours(ids).logits)


def test_a_lora_has_the_words_that_llama_cpp_reads(tmp_path: Path) -> None:
    export = TinyExport(tmp_path, "llama", rank=4)
    export.make(format="gguf", type="lora")
    reader = GGUFReader(export.result / "adapter.gguf")
    said = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert said == {
        "general.architecture": "llama",
        "general.type": "adapter",
        "general.name": "ft:tiny:local:x:1",
        "adapter.type": "lora",
        "adapter.lora.alpha": 8.0,
    }
    shapes = {tensor.name: tuple(int(size) for size in tensor.shape) for tensor in reader.tensors}
    # the widths as GGUF has them: the inner one first
    assert shapes["blk.0.attn_q.weight.lora_a"] == (64, 4)
    assert shapes["blk.0.attn_q.weight.lora_b"] == (4, 64)
    assert shapes["blk.1.ffn_down.weight.lora_b"] == (4, 64)
    assert len(shapes) == 2 * 7 * 2


def test_phis_biases_and_its_partial_rotation_are_told(tmp_path: Path) -> None:
    export = TinyExport(tmp_path, "phi")
    export.make(format="gguf", type="f16")
    reader = GGUFReader(export.result / "model.gguf")
    names = {tensor.name for tensor in reader.tensors}
    assert {"output.bias", "blk.0.attn_k.bias", "blk.1.ffn_up.bias", "output_norm.bias"} <= names
    assert reader.fields["phi2.rope.dimension_count"].contents() == 8
    assert reader.fields["tokenizer.ggml.tokens"].contents()[300] == "[PAD300]"


def test_rows_come_back_from_the_order_that_llama_cpp_rotates_in() -> None:
    names = GgufNames(LLAMA, blocks=1, heads=2, key_heads=1)
    rows = torch.arange(8.0)[:, None]
    moved = names.rows_to_gguf("model.layers.0.self_attn.q_proj.weight", rows)
    # of each head of four rows the halves, which are rotated against each other, stand side by side
    assert moved.flatten().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert torch.equal(names.rows_from_gguf("model.layers.0.self_attn.q_proj.weight", moved), rows)
    keys = names.rows_to_gguf("model.layers.0.self_attn.k_proj.bias", torch.arange(4.0))
    assert keys.tolist() == [0, 2, 1, 3]
    values = torch.arange(8.0)
    assert names.rows_to_gguf("model.layers.0.self_attn.v_proj.bias", values) is values


def test_an_adapter_read_from_gguf_adds_what_pefts_does(tmp_path: Path) -> None:
    export = TinyExport(tmp_path, "llama", use_rslora=True)
    export.make(format="gguf", type="lora")
    expected = merged_by_peft(with_adapter(load_base(export.base), export.adapter)).state_dict()
    base = load_base(export.base).state_dict()
    reader = GGUFReader(export.result / "adapter.gguf")
    stored = {tensor.name: torch.from_numpy(tensor.data.copy()) for tensor in reader.tensors}
    name = "model.layers.0.self_attn.v_proj.weight"  # whose rows stay
    a_RI, b_OR = (stored[f"blk.0.attn_v.weight.lora_{part}"] for part in "ab")
    alpha = float(reader.fields["adapter.lora.alpha"].contents())
    assert torch.allclose(base[name] + alpha / a_RI.shape[0] * (b_OR @ a_RI), expected[name], atol=1e-6)
