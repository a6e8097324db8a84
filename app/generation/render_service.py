"""What a model is fed for a prompt, asked from the engine that would feed it."""

from app.generation.render_schemas import RenderCreate, RenderOut
from app.models.service import ServedModel
from core.errors import InvalidParameter
from core.serving.generation import Conversation, Engine, PromptSource, RenderRequest, Turn, Variables


async def render(request: RenderCreate, model: ServedModel, engine: Engine) -> RenderOut:
    """Render a request's prompt for a model.

    Raises:
        InvalidParameter: there is not exactly one prompt.
        ServiceError: as `core.serving.generation.Engine.render`.
    """
    rendering = await engine.render(RenderRequest(prompt=_prompt_of(request), adapter=model.adapter))
    return RenderOut(
        object="render",
        model=model.name,
        text=rendering.text,
        input_ids=list(rendering.ids),
        moved_whitespace=rendering.moved,
        prompt_tokens=len(rendering.ids),
    )


def _prompt_of(request: RenderCreate) -> PromptSource:
    given = [name for name in ("prompt", "variables", "messages") if getattr(request, name) is not None]
    if not given:
        raise InvalidParameter("prompt", "give a prompt, variables or messages")
    if len(given) > 1:
        raise InvalidParameter(given[1], f"there is {given[0]} already; send only one of prompt, variables, messages")
    if request.prompt is not None:
        return request.prompt
    if request.variables is not None:
        return Variables(variables=request.variables)
    return Conversation(messages=tuple(Turn(role=m.role, content=m.content) for m in request.messages or ()))
