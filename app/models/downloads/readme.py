"""README.md of a downloaded adapter: of which base model it is, what it was trained on, and under which licences.

Says only what manifest and registry know, so that equal adapters have equal ones.
"""

from core.base_models.registry import BaseModelEntry, Hub
from core.serving.adapter_format import Manifest


def write_readme(manifest: Manifest, base: BaseModelEntry | None) -> bytes:
    """Write the page. ``base`` is None where the registry no longer has the base model."""
    licence = None if base is None else base.license
    source = base.source if base is not None and isinstance(base.source, Hub) else None
    head = ["library_name: peft"]
    head += [] if source is None else [f"base_model: {source.id}"]
    head += [] if licence is None else [f"license: {licence}"]
    where = "" if source is None else f" ({source.id} at revision {source.revision})"
    lines = [
        "---",
        *head,
        "---",
        "",
        f"# A LoRA adapter of {manifest.base_model}",
        "",
        f"- Base model: {manifest.base_model}{where}, with the fingerprint {manifest.base_model_fingerprint}.",
        f"- Trained on: {' '.join(manifest.trained_on.split()) or 'not known'}",
        f"- Prompts: {_prompts(manifest)}",
        "- `adapter_config.json` and `adapter_model.safetensors` are PEFT's; `manifest.json` is Loramill's: what the "
        "adapter was trained from, and the SHA-256 of both files.",
        "",
        "## Licences",
        "",
        _licence_note(manifest.base_model, licence),
        "",
        "Of the licence of this adapter and of the data that it was trained on nothing is known here.",
        "",
    ]
    return "\n".join(lines).encode()


def _prompts(manifest: Manifest) -> str:
    if manifest.prompt_format is not None:
        return "written out by the prompt format in `manifest.json`."
    if manifest.example_format == "messages":
        return "conversations, written out by the base model's chat template."
    return "fed as they are."


def _licence_note(base_model: str, licence: str | None) -> str:
    if licence is None:
        return f"The licence of {base_model} is not known here; it binds whoever uses this adapter with it."
    return f"{base_model} is licensed under {licence}, which binds whoever uses this adapter with it."
