"""The manifest of a job: everything that decided its result, and where each part of that came from.

Put together of what the database remembers (``core.store.manifests`` reads it) and of what the trainer told. What
nobody recorded, as of jobs that an earlier version ran, is None: nothing is concluded afterwards.
"""

from typing import Final, Literal

from core.estimates.estimate import Measured
from core.jobs.spec import AdapterRef, FileRef
from core.jobs.status import JobStatus
from core.provenance.origins import EffectiveSetting, ExperimentPlace
from core.provenance.record import Rendered, Stint
from core.values import Frozen

ORDER_RULE: Final = (
    "each epoch is a permutation of the examples by hashes of seed, epoch and place (SplitMix64), cut into steps"
)
HELD_OUT_RULE: Final = "a tenth of the file's distinct prompts, those of the smallest hashes of their text"


class Order(Frozen):
    """By which rules rows are held out, and in which order the others are trained on.

    Attributes:
        rule: of the order, with its version; None: not recorded.
        held_out_rule: with its version; None: not recorded, or a validation file is scored instead.
    """

    rule: str | None
    version: int | None
    seed: int
    held_out_rule: str | None
    held_out_version: int | None


class DataSection(Frozen):
    """What was trained on and scored by. Rendered examples are None until a trainer has told of them."""

    training_file: FileRef
    validation_file: FileRef | None
    order: Order
    rendered: Rendered | None
    rendered_held_out: Rendered | None


class BaseSection(Frozen):
    """The frozen model. ``chat_template_sha256`` is None also where it has no chat template; the tokenizer tells."""

    name: str
    fingerprint: str | None
    tokenizer_sha256: str | None
    chat_template_sha256: str | None


class AdapterSection(Frozen):
    """What the job made.

    Attributes:
        manifest_sha256: the adapter's identity, another for each job.
        weights_sha256: of the weights' file, the same for equal weights; None: not recorded.
        step: after which it stood; None: not recorded.
    """

    name: str
    manifest_sha256: str
    weights_sha256: str | None
    step: int | None


class ContinuedFrom(AdapterRef):
    """The adapter that a job went on from. ``job`` is None where no job made it."""

    job: str | None


class Parents(Frozen):
    """What the job comes from; each is None where it comes from no such thing.

    Attributes:
        rerun_of: id of the job that it makes again, whose request it has its settings from.
    """

    continue_from: ContinuedFrom | None
    experiment: ExperimentPlace | None
    rerun_of: str | None


class Results(Frozen):
    """What a job came to."""

    trained_on: str
    trained_tokens: int
    steps: int | None
    metrics: dict[str, float | None]
    evaluation_id: str | None


class JobManifest(Frozen):
    """A job's birth certificate. Times are Unix seconds.

    Attributes:
        settings: every setting in force by its name.
        stints: which machines and libraries trained it, in order; None: not recorded, or not trained to its end.
        measured: what it took; of a resumed job, in its last stint.
    """

    object: Literal["fine_tuning.job.manifest"]
    id: str
    status: JobStatus
    created_at: int
    started_at: int | None
    finished_at: int | None
    base_model: BaseSection
    data: DataSection
    settings: dict[str, EffectiveSetting]
    stints: tuple[Stint, ...] | None
    measured: Measured | None
    parents: Parents
    adapter: AdapterSection | None
    results: Results | None
