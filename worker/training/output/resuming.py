"""What a run is made of, so that another one's checkpoint is refused, and how it goes on from one of its own.

Files and their verification are ``worker.training.output.checkpoint``'s.
"""

import hashlib

from core.serving.adapter_format import canonical_json
from core.text.held_out import HELD_OUT_VERSION
from worker.models.loading import LoadedModel
from worker.trainer_process.run_folder import RunSpec
from worker.training.data.examples import RunData
from worker.training.data.plan import PLAN_VERSION
from worker.training.metrics import Progress
from worker.training.model.lora import LoraModel
from worker.training.model.optimizer import AdapterOptimizer
from worker.training.output.adapter_files import restore_adapter
from worker.training.output.checkpoint import Checkpoint


def restore(checkpoint: Checkpoint, model: LoraModel, optimizer: AdapterOptimizer) -> Progress:
    """Give the model and the optimizer the checkpoint's tensors; give where the run stood."""
    state = checkpoint.state
    restore_adapter(model, checkpoint.adapter_folder)
    optimizer.restore(checkpoint.optimizer_tensors(), state.step)
    return Progress(
        step=state.step,
        seen_tokens=state.seen_tokens,
        trained_tokens=state.trained_tokens,
        padding_tokens=state.padding_tokens,
        train_loss=state.train_loss,
        train_token_accuracy=state.train_token_accuracy,
        evaluation=state.evaluation,
        standing=state.standing,
    )


def identity_of(spec: RunSpec, data: RunData, base: LoadedModel) -> dict[str, str]:
    """Name what decides a run's result, in words that an error can use."""
    identity = {
        "specification": hashlib.sha256(canonical_json(spec.job.model_dump(mode="json"))).hexdigest(),
        "data set": data.digest,
        "base model": base.fingerprint,
        "planner version": str(PLAN_VERSION),
    }
    if spec.validation_file is None:
        identity["choice of held-out prompts"] = str(HELD_OUT_VERSION)
    return identity
