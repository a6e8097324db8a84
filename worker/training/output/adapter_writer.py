"""Writes an adapter with everything that its manifest tells; refuses one that is broken or that did not change.

The files' form is ``core.serving.adapter_format``'s.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from core.errors import AdapterUnchanged, LossNotFinite
from core.serving.adapter_format import AdapterOrigin, digest_text, write_manifest
from worker.models.loading import LoadedModel
from worker.trainer_process.run_folder import ADAPTER, CONTINUE_FROM, RunSpec
from worker.training.data.examples import RunData
from worker.training.metrics import Progress
from worker.training.model.lora import LoraModel, is_finite
from worker.training.output.adapter_files import is_unchanged, save_adapter


@dataclass(frozen=True)
class AdapterWriter:
    """Writes the model's present adapter into folders."""

    spec: RunSpec
    base: LoadedModel
    model: LoraModel
    data: RunData
    run_folder: Path

    @property
    def trained_on(self) -> str:
        """One sentence: how many tokens of which kind."""
        return self.data.summary.sentence(self.spec.job.prompt_loss_weight)

    def require_finite(self, step: int) -> None:
        """Keep a broken adapter from being written.

        Raises:
            LossNotFinite: a weight is no number any more.
        """
        if not is_finite(self.model):
            raise LossNotFinite(
                f"after step {step} the adapter has weights that are no finite numbers; lower the learning rate"
            )

    def write_adapter(self, folder: Path, step: int) -> None:
        """Write PEFT's files and the manifest into an existing folder."""
        save_adapter(self.model, folder)
        template = self.base.tokenizer.chat_template
        write_manifest(
            folder,
            AdapterOrigin(
                base_model=self.spec.job.base_model,
                base_model_fingerprint=self.base.fingerprint,
                tokenizer_sha256=self.base.tokenizer.digest,
                chat_template_sha256=None if template is None else digest_text(template),
                example_format=self.data.example_format,
                prompt_format=self.spec.job.prompt_format,
                prompts=self.data.prompts,
                job_id=self.spec.job_id,
                step=step,
                trained_on=self.trained_on,
                lora=self.model.lora,
            ),
        )

    def publish(self, progress: Progress, best: Path | None) -> Path:
        """Leave the finished adapter in the run folder, and give its folder.

        Args:
            best: folder of a checkpoint's adapter that is the result; None: the model as it is now.

        Raises:
            AdapterUnchanged: training changed nothing.
            LossNotFinite: a weight is no number any more.
        """
        self.require_finite(progress.step)
        continued = self.spec.job.continue_from
        if is_unchanged(self.model, None if continued is None else self.run_folder / CONTINUE_FROM):
            start = "at exactly zero" if continued is None else f"exactly as {continued.name} is"
            raise AdapterUnchanged(
                f"training left the adapter {start}; raise the learning rate or the number of epochs"
            )
        incoming, final = self.run_folder / f"{ADAPTER}.incoming", self.run_folder / ADAPTER
        for leftover in (incoming, final):
            shutil.rmtree(leftover, ignore_errors=True)
        if best is None:
            incoming.mkdir()
            self.write_adapter(incoming, progress.step)
        else:
            shutil.copytree(best, incoming)
        incoming.rename(final)
        return final
