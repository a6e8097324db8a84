"""Files and stored content, and the views of what refers to it."""

from typing import Final

from sqlalchemy import BigInteger, Index, Text, column, table
from sqlalchemy.orm import Mapped, mapped_column

from core.store.tables.record import DIGEST, ID, BlobState, FileStatus, Record


class FileRecord(Record):
    """A file, uploaded or made by a job; its bytes are the blob ``sha256``."""

    __tablename__ = "files"
    __table_args__ = (Index("ix_files_purpose_id", "purpose", "id"),)

    id: Mapped[str] = mapped_column(ID, primary_key=True)  # file-…
    caller: Mapped[str]
    filename: Mapped[str]
    purpose: Mapped[str]
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(DIGEST, index=True)
    status: Mapped[FileStatus]
    status_details: Mapped[str | None]  # why it cannot be trained on
    file_type: Mapped[str] = mapped_column(Text)
    example_format: Mapped[str | None]  # core.text.files.examples.ExampleFormat
    columns: Mapped[list[str] | None]
    examples: Mapped[int]
    created_at: Mapped[int] = mapped_column(BigInteger)


class ExpiredFileRecord(Record):
    """A job's result file that was deleted because it was old: its job names it for ever."""

    __tablename__ = "expired_files"

    id: Mapped[str] = mapped_column(ID, primary_key=True)  # the file's
    expired_at: Mapped[int] = mapped_column(BigInteger)


class BlobRecord(Record):
    """Stored content. The row comes before the bytes and leaves after them; who refers to it is `BLOB_REFERENCES`."""

    __tablename__ = "blobs"
    __table_args__ = (Index("ix_blobs_state_touched_at", "state", "touched_at"),)

    sha256: Mapped[str] = mapped_column(DIGEST, primary_key=True)
    bytes: Mapped[int | None] = mapped_column(BigInteger)  # None: of an older version, and not measured yet
    state: Mapped[BlobState]
    touched_at: Mapped[int] = mapped_column(BigInteger)  # when it was last stored or let go of, by the database's clock


class BlobPartRecord(Record):
    """A file that an adapter's manifest names: as long as something refers to the manifest, it refers to the file."""

    __tablename__ = "blob_parts"

    manifest_sha256: Mapped[str] = mapped_column(DIGEST, primary_key=True)
    sha256: Mapped[str] = mapped_column(DIGEST, primary_key=True, index=True)


# Views: what refers to which manifest; and what refers to which blob, manifests and their parts among them. A blob
# that is in no row of the second is nobody's.
MANIFEST_REFERENCES: Final = table("manifest_references", column("sha256", DIGEST))
BLOB_REFERENCES: Final = table("blob_references", column("sha256", DIGEST))
