"""What `finetune` tells its ``progress`` while it trains; what each means is ``worker.trainer_process.messages``."""

from worker.trainer_process.messages import (
    CheckpointWritten,
    Evaluated,
    Finished,
    HeldOutAnswer,
    HeldOutAnswers,
    Message,
    Note,
    PhaseStarted,
    StepDone,
)

__all__ = [
    "CheckpointWritten",
    "Evaluated",
    "Finished",
    "HeldOutAnswer",
    "HeldOutAnswers",
    "Message",
    "Note",
    "PhaseStarted",
    "StepDone",
]
