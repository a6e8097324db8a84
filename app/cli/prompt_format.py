"""A prompt format as the commands read it: from a JSON file."""

from pathlib import Path

from pydantic import ValidationError

from core.errors import InvalidParameter
from core.text.render_settings import PromptFormat


def read_prompt_format(path: Path | None) -> PromptFormat | None:
    """Read a prompt format; None where no file was named.

    Raises:
        InvalidParameter: the file holds none.
    """
    if path is None:
        return None
    try:
        return PromptFormat.model_validate_json(path.read_text("utf-8"))
    except UnicodeDecodeError as error:
        raise InvalidParameter("prompt_format", f"{path} is not UTF-8; save it as UTF-8") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(["prompt_format", *map(str, first["loc"])])
        raise InvalidParameter(place, f"{path}: {first['msg'][:1].lower()}{first['msg'][1:]}") from error
