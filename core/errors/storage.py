"""Errors of disk and database."""

from core.errors.tree import NotFound, Unavailable


class BlobNotFound(NotFound):
    """The content-addressed store has no bytes under this digest."""

    code = "blob_not_found"
    kind = "stored content"


class StorageFull(Unavailable):
    """The disk is full; nothing of the request was kept."""

    code = "storage_full"
    status = 507

    @property
    def retry_after_s(self) -> None:
        return None

    def __str__(self) -> str:
        return (
            "no space is left where Loramill keeps its data; nothing of this request was kept. Free some and try again"
        )


class DatabaseUnavailable(Unavailable):
    """The database did not take the request in time."""

    code = "database_unavailable"

    @property
    def retry_after_s(self) -> int | None:
        return 1

    def __str__(self) -> str:
        return "the database is busy or unreachable; try again"


class DatabaseReadOnly(DatabaseUnavailable):
    """The database can be read and not written, and another try does not change that."""

    code = "database_read_only"

    @property
    def retry_after_s(self) -> None:
        return None

    def __str__(self) -> str:
        return (
            "the database cannot be written: it, or the folder where it lies, is read-only; "
            "make it writable for the user that Loramill runs as"
        )


class SchemaMismatch(Unavailable):
    """The database's tables are not the ones this version works with."""

    code = "schema_mismatch"

    def __init__(self, found: str | None, needed: str, newer: bool) -> None:
        super().__init__(found, needed, newer)

    def __str__(self) -> str:
        found, needed, newer = self.args
        remedy = "it was made by a newer Loramill; install that version" if newer else "run `loramill migrate`"
        return f"the database has schema revision {found or 'none'}, this version needs {needed}: {remedy}"
