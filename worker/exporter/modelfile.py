"""The Modelfile that Ollama makes a model of: the GGUF file, how a prompt is written, and where an answer ends.

Ollama writes prompts by Go's templates and takes none of Jinja's. A chat template that only puts words around each
message is found out by rendering conversations, and said in Go's words; one that does more is left to its user.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from core.serving.adapter_format import Manifest
from core.text.chat_template import ChatTemplate, ChatTemplateProblem
from core.text.files.examples import Message
from core.text.tokenizer import TextTokenizer

MODELFILE: Final = "Modelfile"

_SYSTEM, _USER, _ASSISTANT = (Message(role, f"⟦{role}⟧") for role in ("system", "user", "assistant"))
# Conversations by which it is seen that words around each message are all that a template writes.
_PROBES: Final = (
    (_USER,),
    (_SYSTEM, _USER),
    (_USER, _ASSISTANT, _USER),
    (_SYSTEM, _USER, _ASSISTANT, _USER, _ASSISTANT, _USER),
)


@dataclass(frozen=True)
class ChatWords:
    """What a chat template writes before and after the content of each role's messages.

    Attributes:
        default_system: in front of a conversation without a system message.
        answer: what asks for the assistant's answer.
    """

    around: Mapping[str, tuple[str, str]]
    default_system: str
    answer: str

    def render(self, messages: Sequence[Message]) -> str:
        """Write out a conversation, as Ollama would."""
        has_system = any(message.role == "system" for message in messages)
        turns = (
            f"{self.around[message.role][0]}{message.content}{self.around[message.role][1]}" for message in messages
        )
        return ("" if has_system else self.default_system) + "".join(turns) + self.answer

    def to_go(self) -> str:
        """Give it as a template of Go's, by the names that Ollama has."""
        turns = ""
        for role, (before, after) in self.around.items():
            turns += f'{{{{ {"else " if turns else ""}if eq .Role "{role}" }}}}{before}{{{{ .Content }}}}{after}'
        default = f"{{{{ if not .System }}}}{self.default_system}{{{{ end }}}}" if self.default_system else ""
        return f"{default}{{{{ range .Messages }}}}{turns}{{{{ end }}}}{{{{ end }}}}{self.answer}"


def find_words(template: ChatTemplate) -> ChatWords | None:
    """Find what a template writes around messages; None: it does more, or cannot be said in a Modelfile."""
    try:
        words = _guess(template)
        rendered = [template.render(probe, add_generation_prompt=True) for probe in _PROBES]
    except (ChatTemplateProblem, ValueError):
        return None
    if rendered != [words.render(probe) for probe in _PROBES]:
        return None
    literals = [words.default_system, words.answer, *(text for pair in words.around.values() for text in pair)]
    return None if any("{{" in text or '"""' in text for text in literals) else words


def _guess(template: ChatTemplate) -> ChatWords:
    """Find the words where a template writes any around messages.

    Raises:
        ValueError: it does not write the contents as they are, or in another order.
        ChatTemplateProblem: it refuses such a conversation.
    """
    whole = template.render((_SYSTEM, _USER, _ASSISTANT), add_generation_prompt=False)
    system_before, _, rest = whole.partition(_SYSTEM.content)
    between, _, rest = rest.partition(_USER.content)
    user_to_assistant, found, assistant_after = rest.partition(_ASSISTANT.content)
    if not found:
        raise ValueError("a content is missing")
    user_after = template.render((_SYSTEM, _USER), add_generation_prompt=False).rpartition(_USER.content)[2]
    system_after = template.render((_SYSTEM,), add_generation_prompt=False).rpartition(_SYSTEM.content)[2]
    user_before, assistant_before = between.removeprefix(system_after), user_to_assistant.removeprefix(user_after)
    alone = template.render((_USER,), add_generation_prompt=True)
    default, _, asks = alone.partition(f"{user_before}{_USER.content}{user_after}")
    return ChatWords(
        around={
            "system": (system_before, system_after),
            "user": (user_before, user_after),
            "assistant": (assistant_before, assistant_after),
        },
        default_system=default,
        answer=asks,
    )


def write_modelfile(gguf_file: str, manifest: Manifest, tokenizer: TextTokenizer, *, is_adapter: bool) -> str:
    """Write the Modelfile that stands beside a GGUF file."""
    lines = []
    if is_adapter:
        lines += [
            f"# {manifest.base_model} as a GGUF file, or its name in Ollama",
            f"FROM ./{manifest.base_model}.gguf",
            f"ADAPTER ./{gguf_file}",
        ]
    else:
        lines += [f"FROM ./{gguf_file}"]
    lines += _template(manifest, tokenizer)
    for end_id in sorted(tokenizer.end_ids):
        text = tokenizer.token_text(end_id)
        if text and '"' not in text:
            lines.append(f'PARAMETER stop "{text}"')
    return "\n".join(lines) + "\n"


def _template(manifest: Manifest, tokenizer: TextTokenizer) -> list[str]:
    if manifest.example_format != "messages" or tokenizer.chat_template is None:
        written = (
            "fed as they are" if manifest.prompt_format is None else "written by the prompt format in manifest.json"
        )
        return [f"# The adapter was trained on prompts that are {written}.", 'TEMPLATE """{{ .Prompt }}"""']
    words = find_words(ChatTemplate(tokenizer.chat_template, tokenizer.special_tokens))
    if words is None:
        return ["# The chat template does more than Ollama's can say: write prompts with the one in the GGUF file."]
    return [f'TEMPLATE """{words.to_go()}"""']
