"""Errors of aliases: names that stand for models, and are moved."""

from core.errors.tree import Conflict, NotFound


class AliasNotFound(NotFound):
    """No alias has this name."""

    code = "alias_not_found"
    kind = "alias"

    def __str__(self) -> str:
        return f"no such alias: {self.args[0]}; GET /v1/models/aliases lists the ones there are"


class AnswerNotFound(NotFound):
    """No answer for an alias has this id, or it can be rated no longer."""

    code = "answer_not_found"
    kind = "answer"

    def __str__(self) -> str:
        return f"no answer for this alias has the id {self.args[0]}, or it is more than 30 days old"


class AliasMoved(Conflict):
    """An alias was moved by somebody else while it was to be rolled back."""

    code = "alias_moved"

    def __init__(self, name: str) -> None:
        super().__init__(name)

    def __str__(self) -> str:
        return f"{self.args[0]} was moved meanwhile, and nothing was rolled back; its history says by whom, and to what"


class NothingToRollBack(Conflict):
    """An alias stands where it was first set, or what it stood for before was deleted."""

    code = "nothing_to_roll_back"

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)

    def __str__(self) -> str:
        name, reason = self.args
        return f"{name} cannot be rolled back: {reason}; PUT moves it to a model that you name"


class GateFailed(Conflict):
    """An alias was to move if a model passes some thresholds, and the model does not."""

    code = "gate_failed"

    def __init__(self, name: str, answers: str) -> None:
        super().__init__(name, answers)

    @property
    def param(self) -> str:
        return "gate"

    def __str__(self) -> str:
        name, answers = self.args
        return f"{name} was not moved: {answers}"


class ModelInUse(Conflict):
    """A model is to be deleted, and an alias stands for it or for one of its checkpoints."""

    code = "model_in_use"

    def __init__(self, name: str, alias: str) -> None:
        super().__init__(name, alias)

    @property
    def param(self) -> str:
        return "model"

    def __str__(self) -> str:
        name, alias = self.args
        return f"the alias {alias} stands for {name}; move or delete the alias first"
