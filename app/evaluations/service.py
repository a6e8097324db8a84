"""What asking for an evaluation means: which rows and models it names, and everything that it is refused for.

All is refused before anything is queued; what is asked of the engine, and how, is the worker's.
"""

import secrets
from collections.abc import Sequence
from functools import partial

from app.engines.routing import require_own_engine
from app.evaluations.rows_asked import choose_from, find_asked
from app.evaluations.schemas import EvaluationCreate
from app.fine_tuning.renderers import renderer_of
from app.models.service import find_served
from app.tokenizers import imported_of
from core.errors import InvalidParameter, ModelNotFound
from core.evaluations.general_text import GENERAL_TEXT_VERSION
from core.evaluations.learnt import find_all_learnt, require_unlearnt, rows_learnt
from core.evaluations.rows import EvaluationRow
from core.evaluations.scores import NATS
from core.evaluations.spec import EvaluationSpec, JudgedModel, can_report_memory, metric_of
from core.jobs.spec import AdapterRef
from core.scoring.registry import METRICS, require_metrics
from core.serving.generation import SamplingParams
from core.settings import Settings
from core.store import adapters
from core.store.aliases.records import name_behind
from core.store.blobs import BlobStore
from core.store.db import Session


def specify(session: Session, request: EvaluationCreate, *, settings: Settings, blobs: BlobStore) -> EvaluationSpec:
    """Resolve what a request leaves open, and read its rows, so no other writer may have to wait for it.

    Raises:
        InvalidParameter: a field is at fault, or how fields fit each other, the file or the models.
        BaseModelNotReady: the base model is not imported yet.
        JobNotFound: there is no such job.
        BlobNotFound, BlobDamaged: the file's bytes are gone or have changed on disk.
    """
    request = _with_versions(session, request)
    base_model, models = _models_of(session, settings, request.models)
    require_own_engine(settings, base_model, "models")
    require_metrics(request.metrics, "metrics")
    asked = find_asked(session, request, settings, base_model)
    renderer = renderer_of(settings, base_model, asked.rendering)
    param = "file" if request.job is None else "job"
    chosen = choose_from(asked, param, renderer, blobs, request)
    _check_defined(request, chosen.rows, chosen.labels)
    _check_gates(request, models)
    has_memory = _wants_memory(request, models)
    imported = imported_of(settings, base_model)
    learnt = find_all_learnt(
        models, renderer, partial(adapters.find_spec, session), lambda file: blobs.open(file.sha256)
    )
    require_unlearnt(learnt, chosen.rows, param)
    return EvaluationSpec(
        **dict(asked.rendering),
        base_model=base_model,
        base_model_fingerprint=imported.fingerprint,
        context_tokens=imported.context_tokens,
        file=asked.file,
        job=request.job,
        lines=tuple(row.line for row in chosen.rows),
        too_long=chosen.too_long,
        models=models,
        metrics=request.metrics,
        normalization=request.normalization,
        labels=chosen.labels,
        sampling=_sampling_of(request, chosen.max_tokens, imported.context_tokens),
        gates=request.gate,
        unchecked_models=tuple(name for name, known in learnt.items() if known is None),
        general_text=GENERAL_TEXT_VERSION if has_memory else None,
        trained=rows_learnt(learnt, imported.context_tokens) if has_memory else (),
    )


def _with_versions(session: Session, request: EvaluationCreate) -> EvaluationCreate:
    """Name models where aliases are named: what an alias stands for when the result is read is another matter."""
    behind = partial(name_behind, session)
    models, gates = tuple(map(behind, request.models)), request.gate
    if gates:
        from core.scoring.gates import with_model  # as in `_check_gates`

        gates = tuple(with_model(gate, behind) for gate in gates)
    return request.model_copy(update={"models": models, "gate": gates})


def _models_of(session: Session, settings: Settings, names: Sequence[str]) -> tuple[str, tuple[JudgedModel, ...]]:
    """Give the models by content, and the one base model of all."""
    models: list[JudgedModel] = []
    base_model = ""
    for place, name in enumerate(names):
        param = f"models[{place}]"
        if name in names[:place]:
            raise InvalidParameter(param, f"{name} is named twice")
        try:
            served = find_served(session, settings, name)
        except ModelNotFound as error:
            raise InvalidParameter(param, str(error)) from error
        if base_model and served.base_model != base_model:
            raise InvalidParameter(
                param,
                f"{name} is a model of {served.base_model} and {names[0]} one of {base_model}; their tokens differ, so "
                "compare models of one base model",
            )
        base_model = served.base_model
        adapter = None if served.adapter is None else AdapterRef(name=name, adapter_sha256=served.adapter)
        models.append(JudgedModel(name=name, adapter=adapter))
    return base_model, tuple(models)


def _check_defined(request: EvaluationCreate, rows: Sequence[EvaluationRow], labels: tuple[str, ...] | None) -> None:
    """Refuse a metric that not even a perfect answer to any of the rows has a score by."""
    known = None if labels is None else frozenset(labels)
    for place, name in enumerate(request.metrics):
        metric = metric_of(name, request.normalization)
        if not any(metric.is_defined_for(row.reference, tokens=sum(row.counted), labels=known) for row in rows):
            raise InvalidParameter(f"metrics[{place}]", f"{name} is not defined for any of the rows: {_lack_of(name)}")


def _lack_of(name: str) -> str:
    """Say what the rows lack."""
    lacks = {
        "label_accuracy": "the file's answers are no labels, a few texts that come again and again",
        "numeric_match": "no answer has a number",
        "json_field_f1": "no answer is JSON",
        "exact_match": "no answer is JSON, by which the normalization compares",
        "token_f1": "no answer has a word",
        "rouge_l": "no answer has a word, or each is too long",
        "edit_similarity": "each answer is too long",
    }
    return lacks.get(name, "no token of an answer has a weight")


def _check_gates(request: EvaluationCreate, models: Sequence[JudgedModel]) -> None:
    if not request.gate:
        return
    # statistics, and with them numpy, take a tenth of a second that no other request should wait for
    from core.scoring.gates import BetterThan, read_gate

    main = next((METRICS[name] for name in request.metrics if METRICS[name].better != "neither"), None)
    if main is None:
        raise InvalidParameter("gate", "none of the metrics says which way is better; ask for one that does")
    for place, text in enumerate(request.gate):
        param = f"gate[{place}]"
        gate = read_gate(text, param, main)
        if gate.metric.name not in request.metrics:
            raise InvalidParameter(param, f"goes by {gate.metric.name}, which is not among the metrics; add it there")
        if isinstance(gate, BetterThan) and gate.model not in {model.name for model in models}:
            raise InvalidParameter(param, f"names {gate.model}, which is not among the models; add it there")
        if isinstance(gate, BetterThan) and len(models) == 1:
            raise InvalidParameter(param, f"{gate.model} is the only model, and nothing is to be better than it")


def _sampling_of(request: EvaluationCreate, usual_tokens: int, context_tokens: int) -> SamplingParams:
    """Resolve the limit of new tokens, and the seed, so that a row can be asked anew."""
    asked = request.sampling
    limit = min(asked.max_tokens or usual_tokens, context_tokens)
    seed = secrets.randbelow(2**31) if asked.seed is None and asked.temperature > 0 else asked.seed
    return SamplingParams(**asked.model_dump(exclude={"max_tokens", "seed"}), max_tokens=limit, seed=seed)


def _wants_memory(request: EvaluationCreate, models: Sequence[JudgedModel]) -> bool:
    can = can_report_memory(models, request.metrics)
    if request.memory and not can:
        raise InvalidParameter(
            "memory",
            f"compares adapters with their base model by {NATS}: name the base model and an adapter in models, and "
            f"{NATS} in metrics",
        )
    return can if request.memory is None else request.memory
