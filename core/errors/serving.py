"""Errors of an engine and of what it serves."""

from core.errors.tree import Conflict, InvalidInput, Unavailable


class PromptTooLong(InvalidInput):
    """Prompt and completion together do not fit the base model's context.

    ``max_tokens`` 0: a text that no completion is to follow. ``is_least``: the prompt has ``prompt_tokens`` at least,
    which alone are too many; it was not tokenised.
    """

    code = "prompt_too_long"

    def __init__(self, prompt_tokens: int, max_tokens: int, context_tokens: int, is_least: bool = False) -> None:
        super().__init__(prompt_tokens, max_tokens, context_tokens, is_least)

    @property
    def param(self) -> str:
        return "prompt"

    def __str__(self) -> str:
        prompt_tokens, max_tokens, context_tokens, is_least = self.args
        has = "has at least" if is_least else "has"
        if not max_tokens:
            return (
                f"the text {has} {prompt_tokens} tokens, and the model's context holds {context_tokens}; "
                "send it in parts"
            )
        return (
            f"the prompt {has} {prompt_tokens} tokens and {max_tokens} more are asked for, "
            f"but the model's context holds {context_tokens}; shorten the prompt or lower max_tokens"
        )


class EngineUnavailable(Unavailable):
    """No engine answers for the base model."""

    code = "engine_unavailable"

    def __init__(self, base_model: str, reason: str) -> None:
        super().__init__(base_model, reason)

    def __str__(self) -> str:
        return f"the engine for {self.args[0]} does not answer ({self.args[1]}); try again"


class EngineStarting(Unavailable):
    """The engine for the base model is there, and not ready yet."""

    code = "engine_starting"

    def __init__(self, base_model: str, phase: str) -> None:
        super().__init__(base_model, phase)

    def __str__(self) -> str:
        return f"the engine for {self.args[0]} is starting: {self.args[1]}"


class EngineBusy(Unavailable):
    """The engine's queue is full."""

    code = "engine_busy"
    status = 429

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
    """An adapter's stored files do not verify, or its engine cannot compute or hold it; it is not served."""

    code = "adapter_invalid"

    @property
    def retry_after_s(self) -> None:
        return None

    def __init__(self, digest: str, reason: str) -> None:
        super().__init__(digest, reason)

    @property
    def reason(self) -> str:
        return str(self.args[1])

    def __str__(self) -> str:
        return f"adapter {self.args[0][:12]} is refused: {self.reason}"


class AdapterMismatch(Conflict):
    """An adapter is asked from an engine that would feed it other prompts, or another model, than its training did."""

    code = "adapter_mismatch"

    def __init__(self, digest: str, reason: str) -> None:
        super().__init__(digest, reason)

    @property
    def reason(self) -> str:
        return str(self.args[1])

    def __str__(self) -> str:
        return f"adapter {self.args[0][:12]} does not fit this base model: {self.reason}"
