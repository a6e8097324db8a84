"""Holds the shape of a file's examples against the settings that they are to be rendered by."""

from collections.abc import Collection

from core.errors import InvalidParameter
from core.text.mustache import check_prompt_format
from core.text.render_settings import RenderFields


def check_format(asked: RenderFields, example_format: str | None, columns: Collection[str], *, name: str) -> None:
    """Refuse what a trainer would refuse as soon as it had rendered an example.

    Args:
        columns: those that every example has.
        name: what to call the examples in a sentence.

    Raises:
        InvalidParameter: ``prompt_format`` or ``train_on`` does not fit.
    """
    if example_format == "columns":
        if asked.prompt_format is None:
            raise InvalidParameter(
                "prompt_format", f"{name} holds columns, so a prompt format has to say what they become"
            )
        check_prompt_format(asked.prompt_format, columns)
    elif asked.prompt_format is not None:
        raise InvalidParameter("prompt_format", f"{name} holds {example_format}, which takes no prompt format")
    if asked.train_on == "last_assistant" and example_format != "messages":
        raise InvalidParameter(
            "train_on",
            f'"last_assistant" chooses among the answers of a conversation, but {name} holds {example_format}; '
            "leave it out",
        )
