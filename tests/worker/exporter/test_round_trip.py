"""The round trip of a real model: SmolLM2 with an adapter, exported, opened by others, and held against PEFT."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GgufConfig

from core.base_models.registry import read_imported
from core.evaluations.general_text import PASSAGES
from core.exports.spec import ExportSpec, TriedPrompt
from core.jobs.spec import AdapterRef
from core.text.tokenizer import TextTokenizer
from tests.worker.inference.adapters.adapter_files import write_adapter
from worker.exporter.export import make_export
from worker.exporter.gguf_reading import GgufFile, read_model
from worker.trainer_process.export_folder import EXPORTED_ADAPTER, RESULT, ExportRun

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

FORMATS = (
    {"format": "merged", "dtype": "fp32"},
    {"format": "merged", "dtype": "bf16"},
    {"format": "gguf", "type": "f16"},
    {"format": "gguf", "type": "q8_0"},
    {"format": "gguf", "type": "lora"},
)


@pytest.mark.parametrize("fields", FORMATS, ids=lambda fields: "-".join(fields.values()))
def test_smollm2_is_the_same_model_in_every_format(
    tmp_path: Path, smollm2_folder: Path, fields: dict[str, str]
) -> None:
    digest = write_adapter(smollm2_folder, tmp_path / EXPORTED_ADAPTER, rank=8, std=0.012)
    imported, tokenizer = read_imported(smollm2_folder), TextTokenizer.from_folder(smollm2_folder)
    prompts = [TriedPrompt(part="general", ids=tuple(tokenizer.encode(text))[:48]) for _, text in PASSAGES[:6]]
    spec = ExportSpec(
        model="ft:smollm2",
        base_model=imported.name,
        base_model_fingerprint=imported.fingerprint,
        adapter=AdapterRef(name="ft:smollm2", adapter_sha256=digest),
        prompts=tuple(prompts),
        **fields,
    )
    report = make_export(
        ExportRun(spec=spec, base_model_folder=str(smollm2_folder), license=None), tmp_path, lambda _: None
    )
    print(f"\n{spec.described}: {report.text}")
    for prompt in report.prompts:
        print(f"  {prompt.model_dump()}")
    print(f"  {report.tensors.model_dump()}")
    assert report.tensors.adapted == 210
    if spec.format == "gguf" and spec.type != "lora":
        _require_transformers_agrees(tmp_path / RESULT)


def _require_transformers_agrees(folder: Path) -> None:
    """See that transformers' own reader of GGUF finds the same weights, with the rows in its own order."""
    theirs = AutoModelForCausalLM.from_pretrained(
        folder,
        gguf_file="model.gguf",
        local_files_only=True,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    ).state_dict()
    ours = read_model(GgufFile(folder / "model.gguf"))[0].state_dict()
    assert ours.keys() == theirs.keys()
    assert [name for name, tensor in ours.items() if not torch.equal(tensor, theirs[name])] == []
