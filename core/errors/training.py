"""Errors that end a job: each becomes the job's error, with its code. All but `HostUnfit` and what is below it."""

from core.errors.tree import ServiceError


class TrainingError(ServiceError):
    """A job cannot go on. ``lines`` names the training file's lines concerned, where there are any."""

    code = "training_failed"

    def __init__(self, message: str, lines: tuple[int, ...] = ()) -> None:
        super().__init__(message, lines)

    @property
    def lines(self) -> tuple[int, ...]:
        return tuple(self.args[1])

    def __str__(self) -> str:
        return str(self.args[0])


class NoTrainedTokens(TrainingError):
    """Every token's weight is zero, so there is nothing to learn from."""

    code = "no_trained_tokens"


class NothingToScore(TrainingError):
    """The job goes by the loss or a score of held-out completions, and there is none to be had."""

    code = "nothing_to_score"


class EndNeverTrained(TrainingError):
    """No example trains the closing token, so the model would never learn to stop."""

    code = "end_never_trained"


class AllExamplesDropped(TrainingError):
    """The length policy dropped every example."""

    code = "all_examples_dropped"


class ExampleOverLength(TrainingError):
    """An example is over max_length and the job asked for an error in that case."""

    code = "example_over_length"


class ExampleInvalid(TrainingError):
    """An example cannot be rendered."""

    code = "example_invalid"


class LabelsMismatch(TrainingError):
    """A label is neither masked nor the token that it stands at."""

    code = "labels_mismatch"


class LossNotFinite(TrainingError):
    """Loss, gradient or weights stopped being finite numbers."""

    code = "loss_not_finite"


class AdapterUnchanged(TrainingError):
    """Training changed nothing: the adapter's delta is exactly zero."""

    code = "adapter_unchanged"


class TargetModulesUnmatched(TrainingError):
    """A target module names nothing in the base model."""

    code = "target_modules_unmatched"


class HostUnfit(TrainingError):
    """This machine cannot run the job now, and that is not the job's doing: another one, or this one later, may.

    It never fails a job: the job goes back to the queue.
    """

    code = "host_unfit"


class HostUnsuited(HostUnfit):
    """This machine is sound, only not what this job needs; it says nothing of other jobs."""

    code = "host_unsuited"


class BaseModelInvalid(HostUnfit):
    """The base model's folder is missing, incomplete, or not the one expected."""

    code = "base_model_invalid"


class BaseModelUntrainable(TrainingError):
    """The base model computes something that the trainer does not know how to train through."""

    code = "base_model_untrainable"


class BaseModelDiffers(HostUnsuited):
    """The job was made for another base model than the one that has its name here."""

    code = "base_model_differs"


class QuantizationUnavailable(HostUnsuited):
    """The base model is to be quantized where that cannot be done."""

    code = "quantization_unavailable"


class CheckpointInvalid(TrainingError):
    """A checkpoint does not verify, or belongs to another run."""

    code = "checkpoint_invalid"


class RanksDiffer(TrainingError):
    """The processes that train an adapter together, one per GPU, no longer hold the same one."""

    code = "ranks_differ"


class OutOfMemory(TrainingError):
    """The machine's memory does not hold the run."""

    code = "out_of_memory"


class WorkerLost(TrainingError):
    """The trainer or its worker died, as often as attempts are allowed."""

    code = "worker_lost"
