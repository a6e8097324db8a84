"""What the trainer makes of an example, to be looked at: the service's renderer for a base model that is named."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.jobs.resolve import rendering_of
from core.text.preview import PreviewedExample, preview
from core.text.render_settings import RenderFields
from core.text.rendering import Renderer
from core.text.tokenizer import TextTokenizer
from loramill._base_model import find_base_model
from loramill._examples import read_example


class BaseModelRenderer(Renderer):
    """Renders as training, evaluation and the engine do: it is their renderer, made of a base model's name."""

    @classmethod
    def of(cls, base: str | Path, settings: RenderFields | Mapping[str, Any] | None = None) -> "BaseModelRenderer":
        """Make the renderer of a base model, a name of the registry or a folder as for `LLM`; loads no weights.

        Args:
            settings: fields that decide how examples are rendered: prompt_loss_weight, train_on, prompt_format,
                max_length, over_length.

        Raises:
            pydantic.ValidationError: there is no such setting, or it is out of its bounds.
            InvalidParameter: a template of ``prompt_format`` is malformed, or ``max_length`` exceeds the context.
            ModelNotFound, BaseModelInvalid: as `LLM` says.
        """
        model = find_base_model(base)
        asked = RenderFields.model_validate(settings or {})
        in_force = rendering_of(asked, model.entry.name, model.imported.context_tokens)
        return cls(TextTokenizer.from_folder(model.folder), in_force)

    def preview(self, example: Mapping[str, Any]) -> PreviewedExample:
        """Show an example token by token: id, text, weight and the reason for it, and what is cut off.

        Args:
            example: ``{"prompt": …, "completion": …}``, ``{"messages": […]}``, or columns for ``prompt_format``.

        Raises:
            ExampleInvalid: it is none, or cannot be rendered.
            ExampleOverLength: it is too long and ``over_length`` is "error".
        """
        (shown,) = preview([read_example(example)], self, limit=1).examples
        return shown
