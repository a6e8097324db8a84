"""The renderer of a base model by a job's settings: previews, reports and estimates all have theirs from here."""

from app.tokenizers import imported_of, tokenizer_of
from core.errors import BaseModelInvalid, BaseModelNotReady
from core.jobs.resolve import rendering_of
from core.settings import Settings
from core.text.render_settings import RenderFields, RenderSettings
from core.text.rendering import Renderer


def renderer_of(settings: Settings, base_model: str, rendering: RenderSettings) -> Renderer:
    """Give the renderer by settings in force.

    Raises:
        ModelNotFound: the deployment does not train this base model.
        InvalidParameter: a template of ``prompt_format`` is malformed.
        BaseModelNotReady: the base model is not imported yet, or its chat template is malformed.
    """
    try:
        return Renderer(tokenizer_of(settings, base_model), rendering)
    except BaseModelInvalid as error:
        raise BaseModelNotReady(str(error)) from error


def renderer_for(settings: Settings, base_model: str, asked: RenderFields) -> Renderer:
    """Give the renderer by settings as they are asked for.

    Raises:
        InvalidParameter: as `renderer_of`, or ``max_length`` exceeds the context.
        ModelNotFound, BaseModelNotReady: as `renderer_of`.
    """
    tokenizer_of(settings, base_model)  # says first whether there is such a model
    context_tokens = imported_of(settings, base_model).context_tokens
    return renderer_of(settings, base_model, rendering_of(asked, base_model, context_tokens))
