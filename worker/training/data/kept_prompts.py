"""Chooses the training prompts that an adapter's manifest keeps, for the engine to render again and compare.

How prompts and examples are rendered is ``core.text.rendering``'s.
"""

from core.serving.adapter_format import MAX_PROMPTS, TrainedPrompt, canonical_json
from core.serving.generation import Conversation, PromptSource, Turn, Variables
from core.serving.prompts import render
from core.text.files.examples import Chat, Columns, Example, ExampleFormat, PromptCompletion, format_of
from core.text.mustache import PromptTemplates
from core.text.rendering import RenderedExample, Renderer

PROMPT_LIMIT_BYTES = 2**17  # as JSON, so that all that are kept fill less than half of the largest manifest


class PromptKeeper:
    """Keeps the prompts of the first examples that are trained on, those that are cut off or very long left out.

    Of columns only those are kept that the prompt is made of, so no answer is.

    Attributes:
        example_format: the shape of the examples; None before there was one.
    """

    def __init__(self, renderer: Renderer) -> None:
        self.example_format: ExampleFormat | None = None
        self._renderer = renderer
        prompt_format = renderer.settings.prompt_format
        self._names = frozenset() if prompt_format is None else PromptTemplates(prompt_format).prompt.names
        self._prompts: list[TrainedPrompt] = []

    @property
    def prompts(self) -> tuple[TrainedPrompt, ...]:
        return tuple(self._prompts)

    def offer(self, rendered: RenderedExample) -> None:
        """Take an example as it is trained on."""
        self.example_format = format_of(rendered.source)
        if len(self._prompts) == MAX_PROMPTS or rendered.dropped_tokens:
            return
        if len(rendered.text) > PROMPT_LIMIT_BYTES:  # spares rendering it again
            return
        source = self._source_of(rendered.source)
        served = render(self._renderer, source)
        assert served.ids == rendered.prompt_ids, "a prompt is served otherwise than it is trained"
        prompt = TrainedPrompt(source=source, text=served.text, ids=served.ids)
        if len(canonical_json(prompt.model_dump(mode="json"))) <= PROMPT_LIMIT_BYTES:
            self._prompts.append(prompt)

    def _source_of(self, example: Example) -> PromptSource:
        """Give what a client would send to get the example's first answer."""
        match example:
            case PromptCompletion():
                return example.prompt
            case Columns():
                return Variables(variables={name: example.values[name] for name in self._names & example.values.keys()})
            case Chat():
                return Conversation(messages=self._messages_before_answer(example))

    def _messages_before_answer(self, chat: Chat) -> tuple[Turn, ...]:
        answers = [place for place, message in enumerate(chat.messages) if message.role == "assistant"]
        answer = answers[0] if self._renderer.settings.train_on == "all_assistant" else answers[-1]
        return tuple(
            Turn.model_validate({"role": message.role, "content": message.content})
            for message in chat.messages[:answer]
        )
