"""Every error that Loramill reports to people, as one tree with stable codes.

::

    ServiceError
    ├ InvalidInput          the request is wrong; the same request will fail again
    ├ AuthenticationFailed  no key, or a key that is not known
    ├ HostNotAllowed        it asks for another host than ours
    ├ OriginNotAllowed      a page of another site sends it
    ├ RequestTooSlow        it did not arrive in time
    ├ NotFound              the thing named does not exist
    ├ Conflict              the thing's present state forbids the request
    ├ Unavailable           the request is right but cannot be served now
    ├ TrainingError         a job failed; becomes the job's error, never an HTTP status
    │ └ HostUnfit           a machine cannot run it; the job waits for one that can, and is not failed
    └ StartRefused          a process or a command cannot start as things are; never an HTTP status

A class says all that depends on its kind: its code, its HTTP status and whether another try may help; what it does
not say, its nearest ancestor does. Envelopes and headers are their wires' matter. Errors cross process borders, so
they keep all in ``args`` and pickle.
"""

from core.errors.aliases import AliasMoved, AliasNotFound, AnswerNotFound, GateFailed, ModelInUse, NothingToRollBack
from core.errors.experiments import ExperimentNotFound, ReportNotReady
from core.errors.exports import ExportDiffers, ExportNotFound, ExportNotReady
from core.errors.files import (
    FileExpired,
    FileInUse,
    FileNotStored,
    FileTooLarge,
    FileTypeUnclear,
    ParquetNotInstalled,
)
from core.errors.jobs import (
    EvaluationNotFound,
    JobDoesNotFit,
    JobHasEnded,
    JobInUse,
    JobNotEnded,
    JobNotFound,
    RerunImpossible,
)
from core.errors.models import (
    BaseModelNotReady,
    BaseModelNotServed,
    BaseModelProtected,
    CheckpointInUse,
    ImportRefused,
    ModelNotFound,
)
from core.errors.requests import (
    AuthenticationFailed,
    HostNotAllowed,
    IdempotencyInProgress,
    IdempotencyMismatch,
    InvalidParameter,
    OriginNotAllowed,
    RangeNotSatisfiable,
    RequestTooSlow,
    TooManyConnections,
    UnsupportedParameter,
)
from core.errors.serving import (
    AdapterInvalid,
    AdapterMismatch,
    EngineBusy,
    EngineStarting,
    EngineUnavailable,
    GenerationFailed,
    PromptTooLong,
)
from core.errors.start import SettingsInvalid, StartRefused
from core.errors.storage import (
    BlobDamaged,
    BlobFreed,
    BlobNotFound,
    CollectionRuns,
    DatabaseDamaged,
    DatabaseReadOnly,
    DatabaseUnavailable,
    PartsUnknown,
    SchemaMismatch,
    StorageFull,
)
from core.errors.training import (
    AdapterUnchanged,
    AllExamplesDropped,
    BaseModelDiffers,
    BaseModelInvalid,
    BaseModelUntrainable,
    CheckpointInvalid,
    EndNeverTrained,
    ExampleInvalid,
    ExampleOverLength,
    HostUnfit,
    HostUnsuited,
    LabelsMismatch,
    LossNotFinite,
    NothingToScore,
    NoTrainedTokens,
    OutOfMemory,
    QuantizationUnavailable,
    RanksDiffer,
    TargetModulesUnmatched,
    TrainingError,
    WorkerLost,
)
from core.errors.tree import Conflict, InvalidInput, NotFound, ServiceError, Unavailable

__all__ = [
    "AdapterInvalid",
    "AdapterMismatch",
    "AdapterUnchanged",
    "AliasMoved",
    "AliasNotFound",
    "AllExamplesDropped",
    "AnswerNotFound",
    "AuthenticationFailed",
    "BaseModelDiffers",
    "BaseModelInvalid",
    "BaseModelNotReady",
    "BaseModelNotServed",
    "BaseModelProtected",
    "BaseModelUntrainable",
    "BlobDamaged",
    "BlobFreed",
    "BlobNotFound",
    "CheckpointInUse",
    "CheckpointInvalid",
    "CollectionRuns",
    "Conflict",
    "DatabaseDamaged",
    "DatabaseReadOnly",
    "DatabaseUnavailable",
    "EndNeverTrained",
    "EngineBusy",
    "EngineStarting",
    "EngineUnavailable",
    "EvaluationNotFound",
    "ExampleInvalid",
    "ExampleOverLength",
    "ExperimentNotFound",
    "ExportDiffers",
    "ExportNotFound",
    "ExportNotReady",
    "FileExpired",
    "FileInUse",
    "FileNotStored",
    "FileTooLarge",
    "FileTypeUnclear",
    "GateFailed",
    "GenerationFailed",
    "HostNotAllowed",
    "HostUnfit",
    "HostUnsuited",
    "IdempotencyInProgress",
    "IdempotencyMismatch",
    "ImportRefused",
    "InvalidInput",
    "InvalidParameter",
    "JobDoesNotFit",
    "JobHasEnded",
    "JobInUse",
    "JobNotEnded",
    "JobNotFound",
    "LabelsMismatch",
    "LossNotFinite",
    "ModelInUse",
    "ModelNotFound",
    "NoTrainedTokens",
    "NotFound",
    "NothingToRollBack",
    "NothingToScore",
    "OriginNotAllowed",
    "OutOfMemory",
    "ParquetNotInstalled",
    "PartsUnknown",
    "PromptTooLong",
    "QuantizationUnavailable",
    "RangeNotSatisfiable",
    "RanksDiffer",
    "ReportNotReady",
    "RequestTooSlow",
    "RerunImpossible",
    "SchemaMismatch",
    "ServiceError",
    "SettingsInvalid",
    "StartRefused",
    "StorageFull",
    "TargetModulesUnmatched",
    "TooManyConnections",
    "TrainingError",
    "Unavailable",
    "UnsupportedParameter",
    "WorkerLost",
]
