"""Errors of uploaded files."""

from datetime import UTC, datetime

from core.errors.tree import Conflict, InvalidInput, NotFound


class FileTooLarge(InvalidInput):
    """An upload is over the limit."""

    code = "file_too_large"
    status = 413

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(limit_bytes)

    @property
    def param(self) -> str:
        return "file"

    def __str__(self) -> str:
        return f"the file is larger than {self.args[0]:,} bytes; split it, or raise LORAMILL_MAX_UPLOAD_BYTES"


class FileTypeUnclear(InvalidInput):
    """A file's name and its first bytes say different things, or something that is not supported."""

    code = "file_type_unclear"

    def __init__(self, filename: str, reason: str) -> None:
        super().__init__(filename, reason)

    @property
    def param(self) -> str:
        return "file"

    def __str__(self) -> str:
        return f"{self.args[0]}: {self.args[1]}"


class ParquetNotInstalled(InvalidInput):
    """A Parquet file is to be read where the optional package for it is missing."""

    code = "parquet_not_installed"

    @property
    def param(self) -> str:
        return "file"

    def __str__(self) -> str:
        return (
            "Parquet files cannot be read here; install the extra that can (pip install 'loramill[tables]'), "
            "or convert the file to JSONL or CSV"
        )


class FileNotStored(NotFound):
    """No file has this id, or it was deleted."""

    code = "file_not_found"
    kind = "file"


class FileExpired(FileNotStored):
    """A job's result file, which was kept for as long as the deployment keeps them."""

    code = "file_expired"
    status = 410

    def __init__(self, file_id: str, expired_at: int) -> None:
        super().__init__(file_id)
        self.args = (file_id, expired_at)

    def __str__(self) -> str:
        file_id, expired_at = self.args
        day = datetime.fromtimestamp(expired_at, UTC).date()
        return (
            f"file {file_id} held a job's results and is gone since {day}: this deployment keeps them for as long as "
            "LORAMILL_RETENTION_RESULT_FILES_D says. The job's own figures are kept with it"
        )


class FileInUse(Conflict):
    """The file is used by a job or an experiment that has not ended."""

    code = "file_in_use"

    def __init__(self, file_id: str, user: str) -> None:
        super().__init__(file_id, user)

    def __str__(self) -> str:
        return f"file {self.args[0]} is used by {self.args[1]}, which has not ended; cancel that first"
