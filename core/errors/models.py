"""Errors of base models and fine-tuned ones as a client names them."""

from core.errors.tree import Conflict, InvalidInput, NotFound, Unavailable


class ModelNotFound(NotFound):
    """No model has this name."""

    code = "model_not_found"
    kind = "model"

    @property
    def param(self) -> str:
        return "model"

    def __str__(self) -> str:
        return f"no such model: {self.args[0]}; GET /v1/models lists the ones there are"


class BaseModelProtected(Conflict):
    """A base model is to be deleted, or downloaded as adapters are."""

    code = "base_model_protected"

    def __init__(self, name: str, done: str) -> None:
        super().__init__(name, done)

    def __str__(self) -> str:
        name, done = self.args
        return f"{name} is a base model; only fine-tuned models can be {done}"


class CheckpointInUse(Conflict):
    """A checkpoint is to be deleted by itself, and its job goes on or has a model."""

    code = "checkpoint_in_use"

    def __init__(self, name: str, owner: str) -> None:
        super().__init__(name, owner)

    @property
    def param(self) -> str:
        return "model"

    def __str__(self) -> str:
        name, owner = self.args
        return f"{name} belongs to {owner} and goes with it; delete that model, or cancel that job first"


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


class ImportRefused(InvalidInput):
    """What is to be imported is unsafe, no adapter, not one of its base model, or of a kind that is not served."""

    code = "import_refused"

    def __init__(self, reason: str) -> None:
        super().__init__(reason)

    @property
    def param(self) -> str:
        return "file"

    def __str__(self) -> str:
        return f"nothing was imported: {self.args[0]}"
