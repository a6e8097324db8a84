"""The evaluation that a training ends with, where it asks for one: base model and adapter on what it held out.

By the engine, as every evaluation, so that what is scored is what is served; a trainer only scores a few answers on its
way. Rows of a validation file that were trained on as well are left out. That there can be no evaluation is no reason
against the adapter.
"""

from collections.abc import Sequence
from typing import BinaryIO

from core.base_models.registry import folder_of
from core.evaluations.choosing import Asked, Chosen, choose_rows
from core.evaluations.general_text import GENERAL_TEXT_VERSION
from core.evaluations.learnt import Learnt, SpecFinder, find_all_learnt, rows_learnt
from core.evaluations.spec import EvaluationSpec, JudgedModel, can_report_memory
from core.ids import request_digest
from core.jobs.attempt import Publication
from core.jobs.resolve import rendering_of
from core.jobs.spec import AdapterRef, FileRef, JobEvaluation, JobSpec
from core.serving.generation import SamplingParams
from core.settings import Settings
from core.store.blobs import BlobStore, said_of
from core.store.jobs import NewJob
from core.store.tables import JobRecord
from core.text.render_settings import RenderFields
from core.text.rendering import Renderer
from core.text.tokenizer import TextTokenizer
from worker.jobs.filling import require_base_model
from worker.trainer_process.host_faults import host_faults


def evaluation_after(
    job: JobRecord,
    publication: Publication,
    settings: Settings,
    blobs: BlobStore,
    *,
    is_chat: bool,
    earlier_spec: SpecFinder,
) -> NewJob | None:
    """Give the evaluation to be made with the publication; None where too few rows are held out, or none is asked for.

    Args:
        is_chat: the rows are conversations, of which the last answer is asked.
        earlier_spec: finds what an adapter was trained as that the job went on from.

    Raises:
        HostUnfit: the base model or the file cannot be read here.
        ExampleInvalid: a row cannot be rendered otherwise than it was trained on.
    """
    spec = JobSpec.model_validate(job.spec)
    if spec.evaluation is None:
        return None
    _, imported = require_base_model(settings.base_models_folder, spec.base_model)
    asked = _asked_after(spec, imported.context_tokens, is_chat=is_chat)
    tokenizer = TextTokenizer.from_folder(folder_of(settings.base_models_folder, spec.base_model))
    adapter = AdapterRef(name=publication.name, adapter_sha256=publication.adapter.sha256)
    models = (JudgedModel(name=spec.base_model), JudgedModel(name=publication.name, adapter=adapter))

    def spec_of(name: str) -> JobSpec | None:
        return spec if name == publication.name else earlier_spec(name)

    learnt, chosen = _choose(asked, Renderer(tokenizer, asked.rendering), models, spec.evaluation, blobs, spec_of)
    if len(chosen.rows) < 2:
        return None
    has_memory = can_report_memory(models, spec.evaluation.metrics)
    evaluation = EvaluationSpec(
        **dict(asked.rendering),
        base_model=spec.base_model,
        base_model_fingerprint=imported.fingerprint,
        context_tokens=imported.context_tokens,
        file=asked.file,
        job=job.id,
        lines=tuple(row.line for row in chosen.rows),
        too_long=chosen.too_long,
        learnt=chosen.learnt,
        models=models,
        metrics=spec.evaluation.metrics,
        normalization="strip",
        labels=chosen.labels,
        sampling=SamplingParams(max_tokens=min(chosen.max_tokens, imported.context_tokens)),
        gates=(),
        unchecked_models=tuple(name for name, known in learnt.items() if known is None),
        general_text=GENERAL_TEXT_VERSION if has_memory else None,
        trained=rows_learnt(learnt, imported.context_tokens) if has_memory else (),
    )
    return _new_job(job, evaluation, spec.evaluation)


def _choose(
    asked: Asked,
    renderer: Renderer,
    models: Sequence[JudgedModel],
    evaluation: JobEvaluation,
    blobs: BlobStore,
    spec_of: SpecFinder,
) -> tuple[dict[str, Learnt | None], Chosen]:
    """Give what the models learnt from, and the rows that are asked: none of those that they were trained on."""

    def opened(file: FileRef) -> BinaryIO:
        with said_of(f"file {file.id}"):
            return blobs.open(file.sha256)

    with host_faults("read the rows to be evaluated"):
        learnt = find_all_learnt(models, renderer, spec_of, opened)
        chosen = choose_rows(
            asked,
            renderer,
            lambda: opened(asked.file),
            evaluation.max_rows,
            wants_labels="label_accuracy" in evaluation.metrics,
            learnt=frozenset().union(*(known.prompts for known in learnt.values() if known is not None)),
        )
    return learnt, chosen


def _asked_after(spec: JobSpec, context_tokens: int, *, is_chat: bool) -> Asked:
    """Say of which file rows are asked, rendered as they were trained on; of a conversation the last answer is."""
    fields = RenderFields(
        prompt_format=spec.prompt_format,
        max_length=min(spec.max_length, context_tokens),
        train_on="last_assistant" if is_chat else "all_assistant",
    )
    rendering = rendering_of(fields, spec.base_model, context_tokens)
    file = spec.validation_file or spec.training_file
    return Asked(file, rendering, spec if spec.validation_file is None else None)


def _new_job(job: JobRecord, evaluation: EvaluationSpec, asked: JobEvaluation) -> NewJob:
    requested = {
        "job": job.id,
        "models": [model.name for model in evaluation.models],
        "metrics": list(asked.metrics),
        "max_rows": asked.max_rows,
    }
    return NewJob(job.caller, evaluation, requested, request_digest(requested))
