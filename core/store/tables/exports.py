"""What exports made."""

from sqlalchemy import BigInteger, ForeignKey, Text
from sqlalchemy.orm import Mapped, mapped_column

from core.store.tables.record import DIGEST, ID, Record


class ExportFileRecord(Record):
    """A file of an ended export; its bytes stay as long as this row is there."""

    __tablename__ = "export_files"

    job_id: Mapped[str] = mapped_column(ID, ForeignKey("jobs.id"), primary_key=True)
    name: Mapped[str] = mapped_column(Text, primary_key=True)  # within the export's folder
    sha256: Mapped[str] = mapped_column(DIGEST, index=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
