"""A job that makes another one again: what its run takes over from the other's, and what is said at its end.

What may be why bits differ is ``core.provenance.comparison``'s.
"""

from dataclasses import replace

from core.jobs.attempt import Publication
from core.jobs.events import EventLevel, JobEvent
from core.provenance.comparison import judge_rerun, sentence_of
from core.store import manifests
from core.store.blobs import BlobStore
from core.store.db import Database
from core.store.tables import JobRecord
from worker.jobs.filling import RunChoices


def choices_to_repeat(database: Database, job: JobRecord) -> RunChoices:
    """Give what the job that this one makes again was trained with; nothing for a job that is no rerun."""
    if job.rerun_of is None:
        return RunChoices()
    with database.read() as session:
        measured = manifests.read(session, job.rerun_of).measured
    if measured is None:
        return RunChoices()
    return RunChoices(measured.machine.dtype, measured.token_budget)


def judged(
    database: Database, blobs: BlobStore, job: JobRecord, publication: Publication
) -> tuple[Publication, JobEvent | None]:
    """Add to a rerun's result whether its weights are the same bits, and give the event that says so.

    Any other job's stays as it is.
    """
    if job.rerun_of is None:
        return publication, None
    with database.read() as session:
        this = manifests.read(session, job.id, about_to_end=publication)
        other = manifests.read(session, job.rerun_of)
    verdict = judge_rerun(this, other, manifests.find_weights(other, blobs))
    level = EventLevel.INFO if verdict.same_weights else EventLevel.WARN
    result = {**publication.result, "rerun": verdict.model_dump(mode="json")}
    return replace(publication, result=result), JobEvent(sentence_of(verdict, other.id), level)
