"""Exports of random adapters of tiny models, made in this process."""

import json
import shutil
import tempfile
from atexit import register
from functools import cache
from pathlib import Path
from typing import Any, Final

from core.base_models.registry import read_imported
from core.exports.report import ExportReport
from core.exports.spec import ExportSpec, TriedPrompt
from core.jobs.spec import AdapterRef
from core.serving.adapter_format import MANIFEST, digest_file
from core.text.tokenizer import TextTokenizer
from tests.harness.models.tiny_models import write_tiny_llama, write_tiny_phi, write_tiny_qwen2
from tests.worker.inference.adapters.adapter_files import write_adapter
from worker.exporter.export import make_export
from worker.trainer_process.export_folder import EXPORTED_ADAPTER, RESULT, ExportRun

TINY = {"llama": write_tiny_llama, "phi": write_tiny_phi, "qwen2": write_tiny_qwen2}
TEXTS = ("What is 2+2?\nAnswer:", "Grüße 日本")
# every format, with each of its numbers
ALL: Final[tuple[dict[str, str], ...]] = (
    {"format": "peft"},
    {"format": "vllm"},
    {"format": "merged", "dtype": "fp32"},
    {"format": "merged", "dtype": "bf16"},
    {"format": "gguf", "type": "f16"},
    {"format": "gguf", "type": "bf16"},
    {"format": "gguf", "type": "q8_0"},
    {"format": "gguf", "type": "lora"},
)


def called(fields: dict[str, str]) -> str:
    """Name a format for pytest."""
    return "-".join(fields.values())


@cache
def _make(kind: str, adapter: str) -> tuple[Path, Path]:
    """Make a base model and an adapter of it once in a test run; give their folders, which nobody changes."""
    folder = Path(tempfile.mkdtemp(prefix="loramill-exports-"))
    register(shutil.rmtree, folder, ignore_errors=True)
    base = TINY[kind](folder / "base")
    write_adapter(base, folder / "adapter", **json.loads(adapter))
    return base, folder / "adapter"


class TinyExport:
    """A base model, an adapter of it, and a run folder for each export."""

    def __init__(self, folder: Path, kind: str, **adapter: Any) -> None:
        base, made = _make(kind, json.dumps(adapter))
        self.base = base
        self.run_folder = folder / "run"
        self.adapter = self.run_folder / EXPORTED_ADAPTER
        self.run_folder.mkdir(parents=True)
        shutil.copytree(made, self.adapter)
        self.digest = digest_file(self.adapter / MANIFEST).sha256
        self.tokenizer = TextTokenizer.from_folder(self.base)

    @property
    def result(self) -> Path:
        return self.run_folder / RESULT

    def spec(self, **fields: Any) -> ExportSpec:
        imported = read_imported(self.base)
        said: dict[str, Any] = {
            "model": "ft:tiny:local:x:1",
            "base_model": imported.name,
            "base_model_fingerprint": imported.fingerprint,
            "adapter": AdapterRef(name="ft:tiny:local:x:1", adapter_sha256=self.digest),
            "prompts": tuple(TriedPrompt(part="held_out", ids=tuple(self.tokenizer.encode(text))) for text in TEXTS),
        }
        return ExportSpec(**said | fields)

    def make(self, **fields: Any) -> ExportReport:
        run = ExportRun(spec=self.spec(**fields), base_model_folder=str(self.base), license=None)
        return make_export(run, self.run_folder, lambda _: None)
