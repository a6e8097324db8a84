"""Defects by which stored bytes are lost that something needs, or used although they are no longer what was stored."""

from tests.planted_defects.defect import Defect

COLLECTOR = "tests/core/store/references/test_collector.py"
SHARED = f"{COLLECTOR}::TestPartsOfManifests::test_a_file_of_the_same_bytes_that_is_deleted_leaves_every_adapter_whole"
SCHEDULES = "tests/core/store/references/test_schedules.py"
ANY_ORDER = f"{SCHEDULES}::test_nothing_referred_to_is_ever_lost_in_any_order_of_steps"
DELETION = "tests/core/store/retention/test_job_deletion.py"
EXPIRY = "tests/core/store/retention/test_expiry.py"
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
        name="a collector frees what was stored or let go of within the grace",
        in_="core.store.references.collector:Collector._is_old",
        replace="database_now($session) - self._grace_s",
        by="database_now($session)",
        tests=(ANY_ORDER,),
    ),
    Defect(
        name="of two deletions at once neither begins the grace",
        in_="core.store.references.rows:let_go",
        replace="$rows.order_by($digest).with_for_update()",
        by="$rows.order_by($digest)",
        tests=(f"{COLLECTOR}::TestGrace::test_begins_when_two_records_let_go_at_once",),
    ),
    Defect(
        name="two collectors delete at once",
        in_="core.store.references.collector:Collector.finish_for_dead",
        replace="with self._blobs.alone($$$wait): self._finish()",
        by="self._finish()",
        tests=(ANY_ORDER, f"{COLLECTOR}::TestDeadCollectors::test_that_live_are_left_alone"),
    ),
    Defect(
        name="a job is deleted although a later one goes on from what it made",
        in_="core.store.retention.job_deletion:_find_user",
        replace="JobRecord.continue_from_sha256.in_($digests)",
        by="JobRecord.continue_from_sha256.in_(())",
        tests=(f"{DELETION}::TestNeeded::test_a_job_that_goes_on_from_it",),
    ),
    Defect(
        name="checkpoints leave that an alias stands for",
        in_="core.store.retention.expiry:_is_needed",
        replace="aliases.find_standing_for($$$arguments) is not None",
        by="False",
        tests=(f"{EXPIRY}::TestCheckpoints::test_that_an_alias_stands_for_stay",),
    ),
    Defect(
        name="a job's last event leaves with the others",
        in_="core.store.retention.expiry:_due_events",
        replace="EventRecord.seq < $newest",
        by="EventRecord.seq <= $newest",
        tests=(f"{EXPIRY}::TestEvents::test_leave_a_reader_in_the_middle_at_the_end_of_the_list",),
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
