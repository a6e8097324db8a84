"""Defects by which stored bytes are lost that something needs, or used although they are no longer what was stored."""

from tests.planted_defects.defect import Defect

COLLECTOR = "tests/core/store/references/test_collector.py"
SHARED = f"{COLLECTOR}::TestPartsOfManifests::test_a_file_of_the_same_bytes_that_is_deleted_leaves_every_adapter_whole"
CHANGED = "tests/core/store/test_blobs.py::TestChangedBytes"

DEFECTS = (
    Defect(
        name="the files that manifests name are left out of what refers to stored bytes",
        in_="migrations.versions.0003_blob_references:_blob_references",
        replace="return $sql",
        by="return 'SELECT sha256 FROM files UNION ALL SELECT sha256 FROM manifest_references'",
        tests=(SHARED,),
    ),
    Defect(
        name="a writer refers to bytes without keeping them from the collector",
        in_="core.store.references.rows:hold",
        replace="if $gone: raise BlobFreed",
        by="pass",
        tests=(
            f"{COLLECTOR}::TestWriters::test_whose_bytes_were_freed_before_the_record_begin_again",
            f"{COLLECTOR}::TestWriters::test_are_not_deceived_by_the_row_of_another_who_has_not_put_the_bytes_yet",
        ),
    ),
    Defect(
        name="a collector frees what was referred to while it waited for the lock",
        in_="core.store.references.collector:Collector._decide",
        replace="sorted(set($locked) - set($kept))",
        by="sorted(set($locked))",
        tests=(f"{COLLECTOR}::test_what_is_referred_to_between_the_look_and_the_lock_is_kept",),
    ),
    Defect(
        name="files are fetched for training as they are, not as they were stored",
        in_="core.store.blobs:LocalBlobStore.fetch",
        replace="_hold_against($$$arguments)",
        by="pass",
        tests=(
            f"{CHANGED}::test_are_not_fetched",
            "tests/worker/jobs/test_runner.py::TestChangedBytes::test_of_a_training_file_fail_the_job_before_it_trains",
        ),
    ),
    Defect(
        name="stored bytes are passed on as they are, not as they were stored",
        in_="core.store.blobs:LocalBlobStore.open",
        replace="_hold_against($$$arguments)",
        by="pass",
        tests=(
            f"{CHANGED}::test_are_not_opened",
            "tests/app/files/test_changed_bytes.py::test_no_route_reads_them",
        ),
    ),
)
