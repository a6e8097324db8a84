"""Errors of jobs of either kind as a client asks for them; what ends a running one is ``training``'s."""

from core.errors.tree import Conflict, InvalidInput, NotFound


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


class JobNotFound(NotFound):
    """No fine-tuning job has this id."""

    code = "job_not_found"
    kind = "fine-tuning job"


class EvaluationNotFound(NotFound):
    """No evaluation has this id."""

    code = "evaluation_not_found"
    kind = "evaluation"


class RerunImpossible(Conflict):
    """Something that decided a job's result is gone or has become another, so that it cannot be made again."""

    code = "rerun_impossible"

    def __init__(self, job_id: str, why: str) -> None:
        super().__init__(job_id, why)

    def __str__(self) -> str:
        job_id, why = self.args
        return f"job {job_id} cannot be made again: {why}"


class JobNotEnded(Conflict):
    """A job is to be deleted that waits, runs or is paused."""

    code = "job_not_ended"

    def __init__(self, job_id: str, status: str) -> None:
        super().__init__(job_id, status)

    def __str__(self) -> str:
        job_id, status = self.args
        return f"job {job_id} has not ended ({status}) and cannot be deleted; cancel it first"


class JobInUse(Conflict):
    """A job is to be deleted that something needs which stays."""

    code = "job_in_use"

    def __init__(self, job_id: str, user: str) -> None:
        super().__init__(job_id, user)

    def __str__(self) -> str:
        job_id, user = self.args
        return f"job {job_id} cannot be deleted: {user}"


class JobHasEnded(Conflict):
    """A job that has ended can neither be paused nor resumed."""

    code = "job_has_ended"

    def __init__(self, job_id: str, status: str, what: str) -> None:
        super().__init__(job_id, status, what)

    def __str__(self) -> str:
        job_id, status, what = self.args
        return f"job {job_id} has ended ({status}) and cannot be {what}; make a new job to train again"
