"""The tables: all are known once this is imported. Timestamps are whole Unix seconds (UTC), as the API serves them.

How rows come to be, move and are found is in the modules beside this folder; `migrations/`
makes the tables and holds what SQLAlchemy's metadata cannot say: the trigger on ended jobs, and the views.
"""

from core.store.tables.evaluations import EvaluationExampleRecord, EvaluationRowRecord
from core.store.tables.experiments import ExperimentFileRecord, ExperimentRecord, ExperimentRunRecord
from core.store.tables.exports import ExportFileRecord
from core.store.tables.jobs import (
    AttemptRecord,
    CheckpointRecord,
    EventRecord,
    IdempotencyRecord,
    JobAdapterRecord,
    JobMetadataRecord,
    JobRecord,
)
from core.store.tables.models import (
    AdapterRecord,
    AliasAnswersRecord,
    AliasMoveRecord,
    AliasRatingRecord,
    AliasRecord,
    ModelFamilyRecord,
)
from core.store.tables.record import AdapterState, AliasAction, BlobState, FileStatus, Record
from core.store.tables.stored_bytes import (
    BLOB_REFERENCES,
    MANIFEST_REFERENCES,
    BlobPartRecord,
    BlobRecord,
    ExpiredFileRecord,
    FileRecord,
)

__all__ = [
    "BLOB_REFERENCES",
    "MANIFEST_REFERENCES",
    "AdapterRecord",
    "AdapterState",
    "AliasAction",
    "AliasAnswersRecord",
    "AliasMoveRecord",
    "AliasRatingRecord",
    "AliasRecord",
    "AttemptRecord",
    "BlobPartRecord",
    "BlobRecord",
    "BlobState",
    "CheckpointRecord",
    "EvaluationExampleRecord",
    "EvaluationRowRecord",
    "EventRecord",
    "ExperimentFileRecord",
    "ExperimentRecord",
    "ExperimentRunRecord",
    "ExpiredFileRecord",
    "ExportFileRecord",
    "FileRecord",
    "FileStatus",
    "IdempotencyRecord",
    "JobAdapterRecord",
    "JobMetadataRecord",
    "JobRecord",
    "ModelFamilyRecord",
    "Record",
]
