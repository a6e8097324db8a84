"""Makes manifests of made-up jobs."""

from typing import Any

from core.estimates.estimate import Measured
from core.jobs.requested import HyperparameterFields, TrainingFields
from core.jobs.resolve import TrainableBase, resolve
from core.jobs.spec import FileRef
from core.jobs.status import JobStatus
from core.provenance.manifest import (
    AdapterSection,
    BaseSection,
    DataSection,
    JobManifest,
    Order,
    Parents,
    Results,
)
from core.provenance.origins import settings_of
from core.provenance.record import Rendered, Stint
from tests.harness.fake_trainer import MEASURED

FILE = FileRef(id="file-1", sha256="1" * 64, examples=100, file_type="jsonl")


def manifest(
    job_id: str = "ftjob-1",
    *,
    weights: str | None = "w" * 64,
    file: FileRef = FILE,
    rendered: str = "r" * 64,
    stints: tuple[Stint, ...] | None = None,
    environment: dict[str, str] | None = None,
    measured: Measured = MEASURED,
    loss: float = 0.5,
    **requested: Any,
) -> JobManifest:
    """Make the manifest of a job that has succeeded; ``stints`` empty: of an earlier version."""
    spec = resolve(
        TrainingFields.model_validate({"seed": 1} | requested),
        HyperparameterFields(),
        TrainableBase("base", fingerprint="f" * 64, learning_rate=1e-3, context_tokens=512),
        training=file,
        validation=None,
    )
    one = (Stint(from_step=0, host=job_id, system="Linux", environment=environment or {"torch": "2.0"}),)
    examples = Rendered(sha256=rendered, examples=90, tokens=900)
    return JobManifest(
        object="fine_tuning.job.manifest",
        id=job_id,
        status=JobStatus.SUCCEEDED,
        created_at=1,
        started_at=2,
        finished_at=3,
        base_model=BaseSection(name="base", fingerprint="f" * 64, tokenizer_sha256="t", chat_template_sha256=None),
        data=DataSection(
            training_file=file,
            validation_file=None,
            order=Order(rule="", version=2, seed=spec.seed, held_out_rule="", held_out_version=3),
            rendered=examples,
            rendered_held_out=examples,
        ),
        settings=settings_of(spec, requested, None),
        stints=one if stints is None else stints or None,
        measured=measured,
        parents=Parents(continue_from=None, experiment=None, rerun_of=None),
        adapter=AdapterSection(name="ft:x", manifest_sha256=job_id, weights_sha256=weights, step=4),
        results=Results(trained_on="9 tokens", trained_tokens=9, steps=4, metrics={"l": loss}, evaluation_id=None),
    )
