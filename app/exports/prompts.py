"""Which prompts an export is tried by: those kept from the training, some that it held out, and general text.

Chosen and rendered when the export is made, so that the file they come from may be deleted meanwhile.
"""

from functools import partial
from typing import Final

import structlog

from core.errors import BlobDamaged, BlobNotFound, ExampleInvalid
from core.evaluations.choosing import Asked, choose_rows
from core.evaluations.rows import general_rows
from core.exports.spec import MAX_PROMPT_TOKENS, MAX_PROMPTS, TriedPrompt
from core.jobs.spec import JobSpec
from core.serving.adapter_format import MAX_PROMPTS as KEPT_PROMPTS
from core.serving.adapter_format import Manifest
from core.store.blobs import BlobStore
from core.text.rendering import Renderer
from core.text.tokenizer import TextTokenizer

_log = structlog.stdlib.get_logger(__name__)

_HELD_OUT: Final = 5
_GENERAL: Final = MAX_PROMPTS - KEPT_PROMPTS - _HELD_OUT
_GENERAL_TOKENS: Final = 48  # of a passage: enough to see a wrong shape, and soon computed


def choose_prompts(
    manifest: Manifest, spec: JobSpec | None, tokenizer: TextTokenizer, context_tokens: int, blobs: BlobStore
) -> tuple[TriedPrompt, ...]:
    """Choose and render the prompts.

    Args:
        spec: of the job that trained the adapter; None: no job here did.
    """
    kept = [TriedPrompt(part="trained", ids=_end_of(prompt.ids)) for prompt in manifest.prompts if prompt.ids]
    held_out = [] if spec is None else _held_out(spec, tokenizer, context_tokens, blobs)
    general = [
        TriedPrompt(part="general", ids=(*row.prompt_ids, *row.answer_ids)[:_GENERAL_TOKENS])
        for row in general_rows(Renderer(tokenizer), context_tokens)[:_GENERAL]
    ]
    return (*kept, *held_out, *general)


def _held_out(spec: JobSpec, tokenizer: TextTokenizer, context_tokens: int, blobs: BlobStore) -> list[TriedPrompt]:
    """Give a few prompts that the training held out; none, and a line in the log, where its file cannot be read."""
    file = spec.validation_file or spec.training_file
    rendering = spec.with_max_length(min(spec.max_length, context_tokens))
    asked = Asked(file, rendering, held_out_of=spec if spec.validation_file is None else None)
    try:
        chosen = choose_rows(
            asked,
            Renderer(tokenizer, rendering),
            partial(blobs.open, file.sha256),
            _HELD_OUT,
            wants_labels=False,
        )
    except (BlobNotFound, BlobDamaged, ExampleInvalid) as reason:
        # the report names the part of each prompt, so that there is none of these is seen there too
        _log.warning("an export is tried without held-out prompts", file=file.id, reason=str(reason))
        return []
    return [TriedPrompt(part="held_out", ids=_end_of(row.prompt_ids)) for row in chosen.rows]


def _end_of(ids: tuple[int, ...]) -> tuple[int, ...]:
    return ids[-MAX_PROMPT_TOKENS:]
