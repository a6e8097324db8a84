"""Renders a prompt as requests ask it and manifests keep it, whichever kind it is.

Trainer and engine both come here. What the prompt becomes is ``core.text.rendering``'s.
"""

from core.serving.generation import Conversation, PromptSource, Variables
from core.text.files.examples import Message
from core.text.rendering import RenderedPrompt, Renderer


def render(renderer: Renderer, prompt: PromptSource) -> RenderedPrompt:
    """Give what to feed for a prompt.

    Raises:
        InvalidParameter: ``variables`` or ``messages`` cannot be rendered.
    """
    match prompt:
        case Variables():
            return renderer.prompt(prompt.variables)
        case Conversation():
            return renderer.prompt([Message(turn.role, turn.content) for turn in prompt.messages])
        case _:
            return renderer.prompt(prompt)
