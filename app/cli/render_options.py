"""The options of commands that render examples: one for each field of a job's render settings.

They are made of the fields' own declarations, and not before such a command is parsed or asks for its help: the
declarations load pydantic, which every other ``--help`` can do without.
"""

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, get_args

import typer
from typer.core import TyperCommand

from core.errors import InvalidParameter

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from core.text.render_settings import RenderFields
    from core.values import Frozen

_BOUNDS: Final = {"ge": "min", "le": "max"}  # pydantic's names of bounds, and typer's


class RenderingCommand(TyperCommand):
    """A command with the render options; its function gets what they say by `asked_rendering`."""

    def get_params(self, ctx: Any) -> list[Any]:
        *own, show_help = super().get_params(ctx)
        return [*own, *_options(), show_help]

    def invoke(self, ctx: Any) -> Any:
        from core.text.render_settings import RenderFields

        fields = RenderFields.model_fields
        ctx.obj = RenderFields(**{name: _read(name, field, ctx.params.pop(name)) for name, field in fields.items()})
        return super().invoke(ctx)


def asked_rendering(context: typer.Context) -> "RenderFields":
    """Give the settings that a `RenderingCommand` was called with."""
    from core.text.render_settings import RenderFields

    assert isinstance(context.obj, RenderFields)
    return context.obj


def _options() -> list[Any]:
    """Let typer make an option of each field, as of a function's parameters."""
    from core.text.render_settings import RenderFields

    def command() -> None:
        """Stand for the parameters that it is given; it is never called."""

    parameters = [_parameter(name, field) for name, field in RenderFields.model_fields.items()]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    vars(command)["__signature__"] = inspect.Signature(parameters)
    made = typer.Typer(add_completion=False)
    made.command()(command)
    return list(typer.main.get_command(made).params)


def _parameter(name: str, field: "FieldInfo") -> inspect.Parameter:
    about: dict[str, Any] = {"help": field.description}
    for constraint in field.metadata:
        about |= {ours: getattr(constraint, its) for its, ours in _BOUNDS.items() if hasattr(constraint, its)}
    if _object_of(field) is not None:
        annotation: Any = Annotated[
            Path | None, typer.Option(**about, exists=True, dir_okay=False, metavar="JSON_FILE")
        ]
    else:
        annotation = Annotated[field.annotation, typer.Option(**about)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=annotation)


def _object_of(field: "FieldInfo") -> "type[Frozen] | None":
    """Give what a field holds if that is an object; None where it is a number or a word."""
    from core.values import Frozen

    kinds = get_args(field.annotation) or (field.annotation,)
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Frozen)), None)


def _read(name: str, field: "FieldInfo", value: Any) -> Any:
    """Give an option's value as the field's; an object is read from the file that was named.

    Raises:
        InvalidParameter: the file holds no such object.
    """
    kind = _object_of(field)
    if value is None or kind is None:
        return value
    from pydantic import ValidationError

    try:
        return kind.model_validate_json(Path(value).read_text("utf-8"))
    except UnicodeDecodeError as error:
        raise InvalidParameter(name, f"{value} is not UTF-8; save it as UTF-8") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join([name, *map(str, first["loc"])])
        raise InvalidParameter(place, f"{value}: {first['msg'][:1].lower()}{first['msg'][1:]}") from error
