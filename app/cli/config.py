"""Settings as the commands read them: malformed ones become one sentence for the person at the terminal."""

from pydantic import ValidationError
from pydantic_settings import SettingsError

from core.errors import SettingsInvalid
from core.settings import PREFIX, Settings, load_settings


def read_settings() -> Settings:
    """Read the settings from the environment.

    Raises:
        SettingsInvalid: a variable is misspelt or its value is malformed.
    """
    try:
        return load_settings()
    except ValidationError as error:
        raise SettingsInvalid("; ".join(map(_sentence, error.errors(include_url=False)))) from error
    except SettingsError as error:  # it names the field, in double quotes
        variable = PREFIX + str(error).split('"')[1].upper()
        raise SettingsInvalid(f"{variable} is malformed: it must be JSON") from error
    except ValueError as error:
        raise SettingsInvalid(str(error)) from error


def _sentence(problem: object) -> str:
    assert isinstance(problem, dict)
    variable = PREFIX + str(problem["loc"][0]).upper()
    # the value is left out: it can be a key
    return f"{variable} is malformed: {str(problem['msg']).removeprefix('Value error, ')}"
