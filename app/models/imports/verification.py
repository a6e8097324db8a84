"""Holds an adapter from elsewhere against its base model, as engines hold our own, before a byte of it is stored.

By the same rules as an engine: the manifest by ``core.serving.adapter_trust``, the config by
``core.serving.peft_config``. The weights are ``weights``' matter.
"""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError

from app.models.imports.adapter_parts import AdapterParts
from app.models.imports.statement import ImportFields, KnownBase, find_base
from core.errors import AdapterInvalid, AdapterMismatch, ImportRefused, InvalidParameter
from core.jobs.imported import Checked
from core.jobs.spec import LoraSpec
from core.serving.adapter_format import (
    CONFIG,
    IMPORTED_JOB,
    WEIGHTS,
    AdapterOrigin,
    FileDigest,
    Manifest,
    canonical_json,
    digest_text,
    parse_manifest,
)
from core.serving.adapter_tensors import PairShape, pair_shapes
from core.serving.adapter_trust import trust_adapter
from core.serving.peft_config import LoraConfig, parse_config
from core.settings import Settings

_UNKNOWN: Final = "not known: it came from elsewhere"


@dataclass(frozen=True)
class FittingAdapter:
    """An adapter that fits its base model by all that its manifest and config say; its weights are yet to be read.

    ``manifest_bytes`` None: it came without, and ``origin`` is what ours is to say.
    """

    base: KnownBase
    origin: AdapterOrigin
    manifest: Manifest | None
    manifest_bytes: bytes | None
    shapes: Mapping[str, PairShape]

    @property
    def rendering(self) -> Checked:
        return "verified" if self.origin.prompts else "unverified"


def check_fit(parts: AdapterParts, said: ImportFields, settings: Settings) -> FittingAdapter:
    """Hold manifest and config against the base model that the adapter is said to be of.

    Raises:
        ImportRefused: it does not fit, or asks for what is not served.
        InvalidParameter: what has to be said of it is missing, or contradicts its manifest.
        BaseModelNotReady: the base model is not imported yet.
    """
    try:
        config = parse_config("", parts.config)
        if parts.manifest is None:
            base = _stated_base(said, settings)
            origin, manifest = _origin_of(base, said, config), None
        else:
            manifest = parse_manifest(parts.manifest)
            base = _trusted_base(manifest, parts.manifest, said, settings)
            origin = manifest
            _check_config(manifest, parts.config, config)
        if base.is_on_vllm and (config.use_dora or origin.lora is None):
            raise ImportRefused("vLLM serves this base model, and computes neither DoRA nor ranks by patterns")
        shapes = pair_shapes("", config, base.layers, max_rank=settings.engine_lora_columns)
    except (AdapterInvalid, AdapterMismatch) as error:
        raise ImportRefused(error.reason) from error
    return FittingAdapter(base, origin, manifest, parts.manifest, shapes)


def manifest_of(adapter: FittingAdapter, config: bytes, weights: FileDigest) -> bytes:
    """Give the manifest's bytes: those that were sent, or ours.

    Raises:
        ImportRefused: prompts cannot be rendered as it was said.
    """
    if adapter.manifest_bytes is not None:
        return adapter.manifest_bytes
    files = {WEIGHTS: weights, CONFIG: digest_of(config)}
    manifest = Manifest(files=files, **{name: getattr(adapter.origin, name) for name in AdapterOrigin.model_fields})
    content = canonical_json(manifest.model_dump(mode="json"))
    try:
        _trust(content, adapter.base)
    except (AdapterInvalid, AdapterMismatch) as error:
        raise ImportRefused(error.reason) from error
    return content


def digest_of(content: bytes) -> FileDigest:
    return FileDigest(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))


def _stated_base(said: ImportFields, settings: Settings) -> KnownBase:
    if said.base_model is None:
        raise InvalidParameter("base_model", "the adapter has no manifest.json that tells its base model; name it")
    return find_base(settings, said.base_model)


def _trusted_base(manifest: Manifest, content: bytes, said: ImportFields, settings: Settings) -> KnownBase:
    if said.prompt_format is not None:
        raise InvalidParameter(
            "prompt_format", "the adapter's manifest.json says how prompts are written; leave it out"
        )
    base = find_base(settings, said.base_model or manifest.base_model)
    _trust(content, base)
    return base


def _trust(content: bytes, base: KnownBase) -> None:
    trust_adapter(
        hashlib.sha256(content).hexdigest(),
        lambda _: io.BytesIO(content),
        fingerprint=base.fingerprint,
        tokenizer=base.tokenizer,
    )


def _origin_of(base: KnownBase, said: ImportFields, config: LoraConfig) -> AdapterOrigin:
    """Say of an adapter without a manifest what is known of it."""
    if said.prompt_format is None:
        raise InvalidParameter(
            "prompt_format",
            "the adapter has no manifest.json that tells how prompts are written; give the JSON of two templates, or "
            '"raw" where prompts are fed as they are',
        )
    template = base.tokenizer.chat_template
    is_raw = said.prompt_format == "raw"
    return AdapterOrigin(
        base_model=base.name,
        base_model_fingerprint=base.fingerprint,
        tokenizer_sha256=base.tokenizer.digest,
        chat_template_sha256=None if template is None else digest_text(template),
        example_format="prompt_completion" if is_raw else "columns",
        prompt_format=None if said.prompt_format == "raw" else said.prompt_format,
        prompts=(),
        job_id=IMPORTED_JOB,
        step=0,
        trained_on=_UNKNOWN,
        lora=_lora_of(config),
    )


def _check_config(manifest: Manifest, content: bytes, config: LoraConfig) -> None:
    """Hold the config against its manifest, which says the same shape in a job's words."""
    if manifest.files[CONFIG] != digest_of(content):
        raise ImportRefused(f"{CONFIG} is not the file that manifest.json names")
    if _comparable(manifest.lora) != _comparable(_lora_of(config)):
        raise ImportRefused(f"manifest.json tells of another shape than {CONFIG}")


def _comparable(lora: LoraSpec | None) -> LoraSpec | None:
    """Leave out what says nothing of an adapter's shape: the dropout, and the order of names."""
    if lora is None:
        return None
    return lora.model_copy(update={"dropout": 0.0, "target_modules": tuple(sorted(lora.target_modules or ()))})


def _lora_of(config: LoraConfig) -> LoraSpec | None:
    """Give an adapter's shape in a job's words; None where they cannot say it."""
    if config.rank_pattern or config.alpha_pattern:
        return None
    try:
        return LoraSpec(
            rank=config.r,
            alpha=config.lora_alpha,
            target_modules=tuple(sorted(config.target_modules)),
            use_rslora=config.use_rslora,
            use_dora=config.use_dora,
        )
    except ValidationError:
        return None
