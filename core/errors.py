"""Every error that Loramill reports to people, as one tree with stable codes.

::

    ServiceError
    ├ InvalidInput          the request is wrong; the same request will fail again
    ├ AuthenticationFailed  no key, or a key that is not known
    ├ NotFound              the thing named does not exist
    ├ Conflict              the thing's present state forbids the request
    ├ Unavailable           try again later
    ├ TrainingError         a job failed; becomes the job's error, never an HTTP status
    └ StartRefused          a process or a command cannot start as things are; never an HTTP status

HTTP statuses are ``app.http.errors``'s. Errors cross process borders, so they keep all in ``args`` and pickle.
"""

from typing import ClassVar


class ServiceError(Exception):
    """Base of all errors meant for people; ``str()`` names the thing and the remedy."""

    code: ClassVar[str] = "service_error"

    @property
    def param(self) -> str | None:
        """The request field at fault, in the request's own spelling; None when it is not one field."""
        return None


class InvalidInput(ServiceError):
    """The request is wrong and repeating it cannot help."""

    code = "invalid_input"


class InvalidParameter(InvalidInput):
    """A field has a value that is not allowed."""

    code = "invalid_parameter"

    def __init__(self, param: str, reason: str) -> None:
        super().__init__(param, reason)

    @property
    def param(self) -> str:
        return str(self.args[0])

    def __str__(self) -> str:
        return f"{self.args[0]}: {self.args[1]}"


class UnsupportedParameter(InvalidParameter):
    """A field exists in the protocol but Loramill does not implement it, so it is refused."""

    code = "unsupported_parameter"

    def __init__(self, param: str, reason: str = "this field is not supported; leave it out") -> None:
        super().__init__(param, reason)


class PromptTooLong(InvalidInput):
    """Prompt and completion together do not fit the base model's context."""

    code = "prompt_too_long"

    def __init__(self, prompt_tokens: int, max_tokens: int, context_tokens: int, param: str = "prompt") -> None:
        named = () if param == "prompt" else (param,)  # an engine knows the prompt by this name only
        super().__init__(prompt_tokens, max_tokens, context_tokens, *named)

    @property
    def param(self) -> str:
        return str(self.args[3]) if len(self.args) > 3 else "prompt"

    def __str__(self) -> str:
        prompt_tokens, max_tokens, context_tokens = self.args[:3]
        return (
            f"the prompt has {prompt_tokens} tokens and {max_tokens} more are asked for, "
            f"but the model's context holds {context_tokens}; shorten the prompt or lower max_tokens"
        )


class FileTooLarge(InvalidInput):
    """An upload is over the limit."""

    code = "file_too_large"

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(limit_bytes)

    @property
    def param(self) -> str:
        return "file"

    def __str__(self) -> str:
        return f"the file is larger than {self.args[0]:,} bytes; split it, or raise LORAMILL_MAX_UPLOAD_BYTES"


class FileTypeUnclear(InvalidInput):
    """A file's name and its first bytes say different things, or something that is not supported."""

    code = "file_type_unclear"

    def __init__(self, filename: str, reason: str) -> None:
        super().__init__(filename, reason)

    @property
    def param(self) -> str:
        return "file"

    def __str__(self) -> str:
        return f"{self.args[0]}: {self.args[1]}"


class ParquetNotInstalled(InvalidInput):
    """A Parquet file is to be read where the optional package for it is missing."""

    code = "parquet_not_installed"

    @property
    def param(self) -> str:
        return "file"

    def __str__(self) -> str:
        return (
            "Parquet files cannot be read here; install the extra that can (pip install 'loramill[tables]'), "
            "or convert the file to JSONL or CSV"
        )


class JobDoesNotFit(InvalidInput):
    """The machine's whole memory is less than a job needs at least."""

    code = "job_does_not_fit"

    def __init__(self, parts: dict[str, int], memory_bytes: int, source: str) -> None:
        super().__init__(parts, memory_bytes, source)

    def __str__(self) -> str:
        parts, memory_bytes, source = self.args
        named = ", ".join(f"{size / 1e9:.2f} GB {part}" for part, size in parts.items())
        return (
            f"the job needs at least {sum(parts.values()) / 1e9:.2f} GB of memory and the machine has "
            f"{memory_bytes / 1e9:.2f} GB (known from {source}): {named}; lower max_length or lora.rank, "
            "or choose a smaller base model"
        )


class IdempotencyMismatch(InvalidInput):
    """An Idempotency-Key came again with another body."""

    code = "idempotency_mismatch"

    def __str__(self) -> str:
        return "this Idempotency-Key was used with another request body; use a new key"


class AuthenticationFailed(ServiceError):
    """The request carries no API key, or one that is not known."""

    code = "invalid_api_key"

    def __str__(self) -> str:
        return "missing or unknown API key; send it as 'Authorization: Bearer <key>'"


class NotFound(ServiceError):
    """The thing named does not exist, or was deleted."""

    code = "not_found"
    kind: ClassVar[str] = "object"

    def __init__(self, name: str) -> None:
        super().__init__(name)

    def __str__(self) -> str:
        return f"no such {self.kind}: {self.args[0]}"


class FileNotStored(NotFound):
    code = "file_not_found"
    kind = "file"


class JobNotFound(NotFound):
    code = "job_not_found"
    kind = "fine-tuning job"


class ModelNotFound(NotFound):
    code = "model_not_found"
    kind = "model"

    @property
    def param(self) -> str:
        return "model"

    def __str__(self) -> str:
        return f"no such model: {self.args[0]}; GET /v1/models lists the ones there are"


class BlobNotFound(NotFound):
    """The content-addressed store has no bytes under this digest."""

    code = "blob_not_found"
    kind = "stored content"


class Conflict(ServiceError):
    """The present state of the thing forbids the request; nothing was changed."""

    code = "conflict"


class FileInUse(Conflict):
    code = "file_in_use"

    def __init__(self, file_id: str, job_id: str) -> None:
        super().__init__(file_id, job_id)

    def __str__(self) -> str:
        return f"file {self.args[0]} is used by job {self.args[1]}, which has not ended; cancel the job first"


class JobHasEnded(Conflict):
    """A job that has ended can neither be paused nor resumed."""

    code = "job_has_ended"

    def __init__(self, job_id: str, status: str, what: str) -> None:
        super().__init__(job_id, status, what)

    def __str__(self) -> str:
        job_id, status, what = self.args
        return f"job {job_id} has ended ({status}) and cannot be {what}; make a new job to train again"


class IdempotencyInProgress(Conflict):
    """Two requests with one Idempotency-Key came at the same time, and the other one was first."""

    code = "idempotency_in_progress"

    def __str__(self) -> str:
        return "another request with this Idempotency-Key is being answered; send it again in a second"


class BaseModelProtected(Conflict):
    code = "base_model_protected"

    def __init__(self, name: str) -> None:
        super().__init__(name)

    def __str__(self) -> str:
        return f"{self.args[0]} is a base model; only fine-tuned models can be deleted"


class BaseModelNotServed(Conflict):
    """A fine-tuned model is asked for, and this deployment does not serve the base model that it belongs to."""

    code = "base_model_not_served"

    def __init__(self, name: str, base_model: str) -> None:
        super().__init__(name, base_model)

    @property
    def param(self) -> str:
        return "model"

    def __str__(self) -> str:
        name, base_model = self.args
        return (
            f"{name} was trained from {base_model}, which this deployment does not serve; "
            "add it to LORAMILL_BASE_MODELS and restart"
        )


class Unavailable(ServiceError):
    """The request is right but cannot be served now."""

    code = "unavailable"

    @property
    def retry_after_s(self) -> int:
        """After how many seconds another try may succeed."""
        return 5


class BaseModelNotReady(Unavailable):
    """The deployment is to train and serve a base model that is not imported yet."""

    code = "base_model_not_ready"

    def __init__(self, reason: str) -> None:
        super().__init__(reason)

    @property
    def retry_after_s(self) -> int:
        return 60

    def __str__(self) -> str:
        return str(self.args[0])


class EngineUnavailable(Unavailable):
    """No engine answers for the base model."""

    code = "engine_unavailable"

    def __init__(self, base_model: str, reason: str) -> None:
        super().__init__(base_model, reason)

    def __str__(self) -> str:
        return f"the engine for {self.args[0]} does not answer ({self.args[1]}); try again in a few seconds"


class EngineBusy(Unavailable):
    """The engine's queue is full."""

    code = "engine_busy"

    def __init__(self, waiting: int, retry_after_s: int) -> None:
        super().__init__(waiting, retry_after_s)

    @property
    def retry_after_s(self) -> int:
        """When there will be room, by the speed that the engine has answered with lately."""
        return int(self.args[1])

    def __str__(self) -> str:
        waiting, retry_after_s = self.args
        return f"the engine already has {waiting} requests waiting; try again in {retry_after_s} s"


class GenerationFailed(Unavailable):
    """The engine failed while it answered this request."""

    code = "generation_failed"

    def __init__(self, reason: str) -> None:
        super().__init__(reason)

    def __str__(self) -> str:
        return f"generation failed: {self.args[0]}"


class AdapterInvalid(Unavailable):
    """An adapter's stored files do not verify, so it is not served."""

    code = "adapter_invalid"

    def __init__(self, digest: str, reason: str) -> None:
        super().__init__(digest, reason)

    def __str__(self) -> str:
        return f"adapter {self.args[0][:12]} is refused: {self.args[1]}"


class AdapterMismatch(Conflict):
    """An adapter is asked from an engine whose base model it was not made for."""

    code = "adapter_mismatch"

    def __init__(self, digest: str, reason: str) -> None:
        super().__init__(digest, reason)

    def __str__(self) -> str:
        return f"adapter {self.args[0][:12]} does not belong to this base model: {self.args[1]}"


class StorageFull(Unavailable):
    """The disk is full; nothing of the request was kept."""

    code = "storage_full"

    @property
    def retry_after_s(self) -> int:
        return 60

    def __str__(self) -> str:
        return (
            "no space is left where Loramill keeps its data; nothing of this request was kept. Free some and try again"
        )


class DatabaseUnavailable(Unavailable):
    """The database did not take the request in time."""

    code = "database_unavailable"

    @property
    def retry_after_s(self) -> int:
        return 1

    def __str__(self) -> str:
        return "the database is busy or unreachable; try again"


class SchemaMismatch(Unavailable):
    """The database's tables are not the ones this version works with."""

    code = "schema_mismatch"

    def __init__(self, found: str | None, needed: str, newer: bool) -> None:
        super().__init__(found, needed, newer)

    def __str__(self) -> str:
        found, needed, newer = self.args
        remedy = "it was made by a newer Loramill; install that version" if newer else "run `loramill migrate`"
        return f"the database has schema revision {found or 'none'}, this version needs {needed}: {remedy}"


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


class BaseModelInvalid(TrainingError):
    """The base model's folder is missing, incomplete, or not the one expected."""

    code = "base_model_invalid"


class QuantizationUnavailable(TrainingError):
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


class StartRefused(ServiceError):
    """A process or a command cannot do its work as things are; for the person at the terminal."""

    code = "start_refused"

    def __init__(self, message: str) -> None:
        super().__init__(message)

    def __str__(self) -> str:
        return str(self.args[0])


class SettingsInvalid(StartRefused):
    """A setting is misspelt, malformed, or contradicts what was asked for."""

    code = "settings_invalid"
