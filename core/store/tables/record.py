"""What all tables have in common: their base, the types of their columns, and enums that are stored as text."""

from enum import StrEnum
from typing import Any, Final

from sqlalchemy import JSON, Enum, MetaData, String, Text
from sqlalchemy.orm import DeclarativeBase

from core.experiments.status import ExperimentStatus
from core.jobs.events import EventLevel, EventType
from core.jobs.kind import JobKind
from core.jobs.status import JobStatus


class FileStatus(StrEnum):
    """OpenAI's names. Files are checked while they arrive, so there is no state in between."""

    PROCESSED = "processed"
    ERROR = "error"


class AdapterState(StrEnum):
    LIVE = "live"
    DELETED = "deleted"


class AliasAction(StrEnum):
    SET = "set"
    ROLLBACK = "rollback"
    DELETE = "delete"


class BlobState(StrEnum):
    LIVE = "live"
    DELETING = "deleting"  # a collector has decided; whoever wants the same bytes waits until the row is gone


ID: Final = String(64)
DIGEST: Final = String(64)


def _as_text(values: type[StrEnum], name: str, *, is_checked: bool = True) -> Enum:
    """Store an enum as its text, with a CHECK of that name."""
    return Enum(
        values,
        name=name,
        native_enum=False,
        create_constraint=is_checked,
        length=16,
        values_callable=lambda enum: [member.value for member in enum],
    )


class Record(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy's own declaration
        str: Text,
        dict[str, Any]: JSON(none_as_null=True),
        list[str]: JSON(none_as_null=True),
        list[dict[str, Any]]: JSON(none_as_null=True),
        FileStatus: _as_text(FileStatus, "status"),
        JobStatus: _as_text(JobStatus, "status"),
        AdapterState: _as_text(AdapterState, "state"),
        AliasAction: _as_text(AliasAction, "action"),
        BlobState: _as_text(BlobState, "state"),
        JobKind: _as_text(JobKind, "kind", is_checked=False),  # came later: SQLite adds no CHECK to a table
        ExperimentStatus: _as_text(ExperimentStatus, "status"),
        EventLevel: _as_text(EventLevel, "level"),
        EventType: _as_text(EventType, "type"),
    }
