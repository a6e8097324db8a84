"""What only a trainer knows of how an adapter came about; it is kept with the job's result.

What the API makes of it, together with what the database knows, is ``core.provenance.manifest``'s.
"""

from collections.abc import Mapping
from typing import Any, Final

from core.values import Frozen

# Where these stand in a job's result: the record, and the digest of the weights that it made.
PROVENANCE: Final = "provenance"
WEIGHTS_SHA256: Final = "weights_sha256"


class Stint(Frozen):
    """The part of a run that one machine computed with one set of libraries, up to the next one's beginning.

    Attributes:
        from_step: steps that had been taken before it.
        host: as its operating system names the machine; None: not recorded by the version that trained.
        system: operating system and C library; None as ``host``.
        environment: what changes a run's result by rounding alone: versions of libraries, device, number type,
            kernels, level of CPU, threads, and torch's own settings of determinism.
    """

    from_step: int
    host: str | None
    system: str | None
    environment: dict[str, str]


class Rendered(Frozen):
    """Examples as they are fed: equal digests train, or are scored, equally."""

    sha256: str  # of all ids, weights and lengths, in the file's order
    examples: int
    tokens: int


class Provenance(Frozen):
    """What a trainer tells at the end of a run.

    Attributes:
        planner_version: of the rule by which rows are shuffled and cut into steps.
        held_out_version: of the rule by which prompts are held out; None: a validation file is scored.
        chat_template_sha256: None: the base model has no chat template.
        stints: in order; the first begins with step 0.
    """

    training: Rendered
    held_out: Rendered
    planner_version: int
    held_out_version: int | None
    tokenizer_sha256: str
    chat_template_sha256: str | None
    stints: tuple[Stint, ...]

    @classmethod
    def of_result(cls, result: Mapping[str, Any] | None) -> "Provenance | None":
        """Read it from a job's result; None for a job that has none, or whose trainer did not tell yet."""
        found = (result or {}).get(PROVENANCE)
        return None if found is None else cls.model_validate(found)
