"""One export, from the adapter's folder to a result that was tried: what the exporter's process does.

Adapter and result are each computed by another's code than what is tried: a merged result is held against PEFT, and
PEFT on the exported files against our own merge.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from core.exports.report import ExportReport, require_within_bounds
from core.serving.adapter_format import digest_file
from worker.exporter.comparing import TensorComparison, compare_prompts
from worker.exporter.oracle import Reading, load_base, merged_by_peft, read_prompts, with_adapter
from worker.exporter.readers import Reopened, reopen
from worker.exporter.subject import Subject
from worker.exporter.writers import writer_of
from worker.trainer_process.export_folder import EXPORTED_ADAPTER, RESULT, ExportRun, write_report

EXPORT_FILE: Final = "export.json"  # of a result: what it is, of what, and what trying it found

Say = Callable[[str], None]  # what begins now, in a few words


def make_export(run: ExportRun, folder: Path, say: Say) -> ExportReport:
    """Make a run folder's export and try it; its report is written last.

    Raises:
        ExportDiffers: the result is not the adapter's.
        AdapterInvalid, BaseModelInvalid: what it is made from is damaged.
    """
    subject = Subject.read(run.spec, Path(run.base_model_folder), folder / EXPORTED_ADAPTER)
    result = folder / RESULT
    result.mkdir()
    say("asking the adapter for its logits")
    readings, expected = _ask_adapter(subject)
    say(f"writing {run.spec.described}")
    writer_of(run.spec)(subject, result)
    say("reading it back")
    report = _try(subject, reopen(subject, result), readings, expected, say)
    require_within_bounds(report)
    _describe(run, result, report)
    write_report(folder, report)
    return report


def _ask_adapter(subject: Subject) -> tuple[list[Reading], dict[str, Tensor]]:
    """Read the adapter's logits, and give the weights that it makes of the base model's."""
    base = load_base(subject.base_folder)
    is_file = subject.spec.format in ("peft", "vllm")  # which PEFT reads, so that PEFT is no judge of it
    model: Any = _with_own_merge(subject, base) if is_file else with_adapter(base, subject.adapter_folder)
    readings = read_prompts(model, subject.spec.prompts, subject.tokenizer.end_ids)
    merged = model if is_file else merged_by_peft(model)
    return readings, merged.state_dict()


def _with_own_merge(subject: Subject, base: Any) -> Any:
    for layer in subject.factors:
        base.get_submodule(layer).weight.data = subject.merged(f"{layer}.weight")
    return base


def _try(
    subject: Subject, reopened: Reopened, readings: list[Reading], expected: dict[str, Tensor], say: Say
) -> ExportReport:
    comparison = TensorComparison(subject.adapted)
    for written in reopened.tensors():
        comparison.add(
            written.name, written.values, expected[written.name], subject.base(written.name), written.rounding
        )
    tensors = comparison.report()
    expected.clear()  # a whole model, which another one takes the place of
    say("asking what was read back")
    return ExportReport(
        rounding=subject.spec.rounding, prompts=compare_prompts(readings, reopened.model()), tensors=tensors
    )


def _describe(run: ExportRun, result: Path, report: ExportReport) -> None:
    """Write into the result what it is."""
    spec = run.spec
    files = {str(path.relative_to(result)): digest_file(path).model_dump() for path in _files(result)}
    described = {
        "model": spec.model,
        "adapter_sha256": spec.adapter.adapter_sha256,
        "base_model": spec.base_model,
        "base_model_fingerprint": spec.base_model_fingerprint,
        "base_model_license": run.license,
        "format": spec.format,
        "dtype": spec.dtype,
        "type": spec.type,
        "files": files,
        "tried": report.model_dump(mode="json"),
    }
    text = json.dumps(described, indent=2, ensure_ascii=False) + "\n"
    (result / EXPORT_FILE).write_text(text, encoding="utf-8")


def _files(result: Path) -> Iterator[Path]:
    return (path for path in sorted(result.rglob("*")) if path.is_file())


def set_up_torch() -> None:
    """Have float32 computed as float32."""
    torch.set_float32_matmul_precision("highest")
