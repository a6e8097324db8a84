"""Errors of disk and database."""

from core.errors.tree import NotFound, Unavailable


class BlobNotFound(NotFound):
    """The content-addressed store has no bytes under this digest."""

    code = "blob_not_found"
    kind = "stored content"


class BlobDamaged(Unavailable):
    """Stored bytes are no longer those that were stored. ``what`` says whose they are; "" where that is not known."""

    code = "blob_damaged"

    def __init__(self, sha256: str, what: str = "") -> None:
        super().__init__(sha256, what)

    @property
    def sha256(self) -> str:
        return str(self.args[0])

    @property
    def retry_after_s(self) -> None:
        return None

    def __str__(self) -> str:
        sha256, what = self.args
        return (
            f"the stored bytes of {what or 'a file'} have changed on disk: they no longer have the SHA-256 {sha256}. "
            "Upload or restore the same bytes, which takes their place; `loramill doctor --deep` finds all that changed"
        )


class BlobFreed(Unavailable):
    """The same bytes were unreferenced and are being freed at this moment, so they have to be stored again."""

    code = "blob_freed"

    @property
    def retry_after_s(self) -> int:
        return 1

    def __str__(self) -> str:
        return "the same bytes, which nothing referred to, are being freed at this moment; send the request again"


class CollectionRuns(Unavailable):
    """Another process frees unreferenced bytes of the same store."""

    code = "collection_runs"

    @property
    def retry_after_s(self) -> int:
        return 60

    def __str__(self) -> str:
        return "another process is freeing unreferenced bytes of this store; try again when it is done"


class PartsUnknown(Unavailable):
    """Served adapters' manifests cannot be read, so which files they need is not known, and nothing can be freed."""

    code = "parts_unknown"

    def __init__(self, manifests: tuple[str, ...]) -> None:
        super().__init__(tuple(manifests))  # a list where it came over a wire

    @property
    def retry_after_s(self) -> None:
        return None

    def __str__(self) -> str:
        [manifests] = self.args
        named = ", ".join(sha256[:12] for sha256 in manifests[:3])
        more = f" and {len(manifests) - 3} more" if len(manifests) > 3 else ""
        return (
            f"nothing was freed: the manifest of {named}{more} cannot be read, so the files of that adapter are not "
            "known. Restore it from a backup or delete the model; `loramill doctor --deep` names the models"
        )


class StorageFull(Unavailable):
    """The disk is full; nothing of the request was kept."""

    code = "storage_full"
    status = 507

    @property
    def retry_after_s(self) -> None:
        return None

    def __str__(self) -> str:
        return (
            "no space is left where Loramill keeps its data; nothing of this request was kept. "
            "Requests that write are refused until some is freed"
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


class DatabaseDamaged(Unavailable):
    """The database's file is not what the database wrote."""

    code = "database_damaged"

    @property
    def retry_after_s(self) -> None:
        return None

    def __str__(self) -> str:
        return (
            "the database's file is damaged; stop Loramill and restore it from a backup. "
            "`loramill doctor --deep` says what was found"
        )


class SchemaMismatch(Unavailable):
    """The database's tables are not the ones this version works with."""

    code = "schema_mismatch"

    def __init__(self, found: str | None, needed: str, newer: bool) -> None:
        super().__init__(found, needed, newer)

    @property
    def retry_after_s(self) -> None:
        return None

    def __str__(self) -> str:
        found, needed, newer = self.args
        remedy = "it was made by a newer Loramill; install that version" if newer else "run `loramill migrate`"
        return f"the database has schema revision {found or 'none'}, this version needs {needed}: {remedy}"
