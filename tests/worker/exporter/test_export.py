"""Whole exports of tiny models: sound ones are within their bounds in every format, and planted faults are refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFWriter
from torch import Tensor

from core.errors import AdapterInvalid, ExportDiffers
from core.exports.report import BOUNDS
from core.serving.adapter_format import CONFIG, WEIGHTS
from tests.worker.exporter.exports import ALL, TINY, TinyExport, called
from worker.exporter import export as exporting
from worker.exporter import gguf_files, gguf_metadata, merging, subject, writers
from worker.exporter.gguf_names import GgufNames
from worker.exporter.merging import LayerFactors
from worker.exporter.subject import Subject
from worker.trainer_process.export_folder import read_report

Fields = dict[str, str]
Plant = Callable[[pytest.MonkeyPatch], None]

MERGED = [
    {"format": "merged", "dtype": "fp32"},
    {"format": "merged", "dtype": "bf16"},
    {"format": "gguf", "type": "q8_0"},
]
PLANTED = [*(("llama", fields) for fields in MERGED), ("phi", {"format": "gguf", "type": "f16"})]
VICTIM = "model.layers.1.self_attn.q_proj"


@pytest.mark.parametrize("kind", TINY)
@pytest.mark.parametrize("fields", ALL, ids=called)
def test_an_export_in_every_format_is_the_adapter(tmp_path: Path, kind: str, fields: Fields) -> None:
    export = TinyExport(tmp_path, kind)
    report = export.make(**fields)
    assert read_report(export.run_folder) == report
    assert report.tensors.kept_change == pytest.approx(1, abs=0.02)
    assert all(prompt.tokens > 0 for prompt in report.prompts)
    told = json.loads((export.result / "export.json").read_text())
    assert told["files"].keys() == {
        path.relative_to(export.result).as_posix() for path in export.result.rglob("*") if path.is_file()
    } - {"export.json"}


@pytest.mark.parametrize("fields", MERGED[::2], ids=called)
@pytest.mark.parametrize(
    "adapter",
    [
        {"use_dora": True},
        {"use_rslora": True},
        {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"v_proj": 12}},
    ],
    ids=["dora", "rslora", "patterns"],
)
def test_weights_hold_whatever_an_adapter_does_to_them(tmp_path: Path, fields: Fields, adapter: dict[str, Any]) -> None:
    TinyExport(tmp_path, "llama", **adapter).make(**fields)


@pytest.mark.parametrize(
    "adapter", [{"use_rslora": True}, {"alpha_pattern": {"v_proj": 12}}], ids=["rslora", "patterns"]
)
def test_a_lora_in_gguf_holds_scales_for_which_it_has_no_words(tmp_path: Path, adapter: dict[str, Any]) -> None:
    TinyExport(tmp_path, "llama", **adapter).make(format="gguf", type="lora")


def _wrong_scale(patch: pytest.MonkeyPatch) -> None:
    own = LayerFactors.delta
    patch.setattr(LayerFactors, "delta", lambda pair: 1.1 * own(pair))


def _transposed(patch: pytest.MonkeyPatch) -> None:
    own = LayerFactors.delta

    def transposed(pair: LayerFactors) -> Tensor:
        delta_OI = own(pair)
        return delta_OI.T if delta_OI.shape[0] == delta_OI.shape[1] else delta_OI

    patch.setattr(LayerFactors, "delta", transposed)


def _dropped_module(patch: pytest.MonkeyPatch) -> None:
    def without(name: str, weight: Tensor, factors: dict[str, LayerFactors]) -> Tensor:
        return merging.merge(name, weight, {layer: pair for layer, pair in factors.items() if layer != VICTIM})

    patch.setattr(subject, "merge", without)


@pytest.mark.parametrize(("kind", "fields"), PLANTED)
@pytest.mark.parametrize("plant", [_wrong_scale, _transposed, _dropped_module])
def test_weights_that_are_merged_wrongly_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, fields: Fields, plant: Plant
) -> None:
    export = TinyExport(tmp_path, kind)
    plant(monkeypatch)
    with pytest.raises(ExportDiffers):
        export.make(**fields)
    assert read_report(export.run_folder) is None


@pytest.mark.parametrize("fields", MERGED[1:], ids=called)
def test_what_rounding_would_hide_in_the_answers_is_seen_in_the_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: Fields
) -> None:
    export = TinyExport(tmp_path, "llama", std=0.02)  # of which one module is hardly felt
    _dropped_module(monkeypatch)
    with pytest.raises(ExportDiffers, match=r"a number's distance|a tensor's numbers"):
        export.make(**fields)


def test_a_merge_that_was_wrong_would_not_pass_as_peft_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export = TinyExport(tmp_path, "llama")
    _wrong_scale(monkeypatch)
    with pytest.raises(ExportDiffers):
        export.make(format="peft")


def _other_alpha(patch: pytest.MonkeyPatch) -> None:
    own = gguf_metadata.add_lora
    patch.setattr(gguf_files, "add_lora", lambda writer, name, alpha: own(writer, name, 1.1 * alpha))


def _swapped_factors(patch: pytest.MonkeyPatch) -> None:
    _change_pair(patch, lambda pair: LayerFactors(pair.b_OR.T.contiguous(), pair.a_RI.T.contiguous(), pair.scale, None))


def _lost_layer(patch: pytest.MonkeyPatch) -> None:
    own = gguf_files.write_lora

    def without(path: Path, name: str, *, names: GgufNames, factors: dict[str, LayerFactors]) -> None:
        own(path, name, names=names, factors={layer: pair for layer, pair in factors.items() if layer != VICTIM})

    patch.setattr(writers, "write_lora", without)


def _change_pair(patch: pytest.MonkeyPatch, change: Callable[[LayerFactors], LayerFactors]) -> None:
    own = gguf_files.write_lora

    def changed(path: Path, name: str, *, names: GgufNames, factors: dict[str, LayerFactors]) -> None:
        own(path, name, names=names, factors={**factors, VICTIM: change(factors[VICTIM])})

    patch.setattr(writers, "write_lora", changed)


@pytest.mark.parametrize("kind", ["llama", "phi"])
@pytest.mark.parametrize("plant", [_other_alpha, _swapped_factors, _lost_layer])
def test_a_lora_that_is_written_wrongly_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, plant: Plant
) -> None:
    export = TinyExport(tmp_path, kind)
    plant(monkeypatch)
    with pytest.raises(ExportDiffers):
        export.make(format="gguf", type="lora")


@pytest.mark.parametrize("type_", ["f16", "lora"])
def test_rows_that_are_left_in_transformers_order_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, type_: str
) -> None:
    export = TinyExport(tmp_path, "llama")
    monkeypatch.setattr(GgufNames, "rows_to_gguf", lambda _, name, tensor: tensor)
    with pytest.raises(ExportDiffers):
        export.make(format="gguf", type=type_)


@pytest.mark.parametrize("key", ["add_rope_freq_base", "add_head_count", "add_rope_dimension_count"])
def test_a_shape_that_is_told_wrongly_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    export = TinyExport(tmp_path, "phi")
    own = getattr(GGUFWriter, key)
    monkeypatch.setattr(GGUFWriter, key, lambda writer, value: own(writer, value // 2))
    with pytest.raises(ExportDiffers):
        export.make(format="gguf", type="f16")


def _tamper(patch: pytest.MonkeyPatch, tamper: Callable[[Subject, Path], None]) -> None:
    own = writers.writer_of

    def tampering(spec: Any) -> writers.Writer:
        write = own(spec)

        def write_and_tamper(subject: Subject, folder: Path) -> None:
            write(subject, folder)
            tamper(subject, folder)

        return write_and_tamper

    patch.setattr(exporting, "writer_of", tampering)


def test_another_end_token_in_a_merged_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export = TinyExport(tmp_path, "llama")
    _tamper(
        monkeypatch,
        lambda _, folder: _edit(folder / "tokenizer_config.json", eos_token="<|im_start|>"),
    )
    with pytest.raises(ExportDiffers, match="ends answers with tokens"):
        export.make(format="merged", dtype="bf16")


def test_another_end_token_in_gguf_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export = TinyExport(tmp_path, "llama")
    own = GGUFWriter.add_eos_token_id
    monkeypatch.setattr(GGUFWriter, "add_eos_token_id", lambda writer, _: own(writer, 257))
    with pytest.raises(ExportDiffers, match="ends answers with token 257"):
        export.make(format="gguf", type="f16")


@pytest.mark.parametrize("name", ["tokenizer.json", "chat_template"])
def test_another_tokenizer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    export = TinyExport(tmp_path, "llama")

    def tamper(_: Subject, folder: Path) -> None:
        if name == "chat_template":
            _edit(folder / "tokenizer_config.json", chat_template="{{ messages[0].content }}")
        else:
            (folder / name).write_text((folder / name).read_text() + "\n")

    _tamper(monkeypatch, tamper)
    with pytest.raises(ExportDiffers, match="tokenizer has another"):
        export.make(format="merged", dtype="bf16")


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
@pytest.mark.parametrize("format_", ["peft", "vllm"])
def test_an_adapters_file_with_another_byte_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format_: str, name: str
) -> None:
    export = TinyExport(tmp_path, "llama")

    def tamper(_: Subject, folder: Path) -> None:
        [path] = folder.rglob(name)
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)

    _tamper(monkeypatch, tamper)
    with pytest.raises(ExportDiffers, match="does not have the bytes"):
        export.make(format=format_)


def test_an_adapter_with_another_manifest_is_refused(tmp_path: Path) -> None:
    export = TinyExport(tmp_path, "llama")
    other = TinyExport(tmp_path / "other", "llama", seed=1)
    shutil.rmtree(export.adapter)
    shutil.copytree(other.adapter, export.adapter)
    with pytest.raises(AdapterInvalid, match="its manifest is another one"):
        export.make(format="peft")


def test_equal_exports_have_equal_bytes(tmp_path: Path) -> None:
    one, other = TinyExport(tmp_path / "one", "llama"), TinyExport(tmp_path / "other", "llama")
    for export in (one, other):
        export.make(format="gguf", type="q8_0")
    for name in ("model.gguf", "Modelfile"):
        assert (one.result / name).read_bytes() == (other.result / name).read_bytes()


def test_bounds_are_the_wider_the_coarser_the_numbers_are() -> None:
    exact, *rounded = (BOUNDS[name] for name in ("none", "f16", "bf16", "q8_0"))
    for finer, coarser in zip([exact, *rounded], rounded, strict=False):
        assert finer.divergence_nats < coarser.divergence_nats
        assert finer.logit_difference < coarser.logit_difference


def _edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
