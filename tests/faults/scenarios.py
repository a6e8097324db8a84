"""All scenarios, in the order in which they run."""

from typing import Final

from tests.faults.contents import flipped_byte, no_base_model, shared_content_deleted
from tests.faults.databases import killed_migration, postgres_restart
from tests.faults.disks import full_home, full_run_folder, full_store, slow_disk, trainer_disk_full
from tests.faults.frozen import frozen_writer
from tests.faults.replies import killed_before_reply
from tests.faults.scenario import Scenario

SCENARIOS: Final = {
    scenario.name: scenario
    for scenario in (
        Scenario("shared-content", "deleting a file or model takes nothing from its twin", shared_content_deleted),
        Scenario("flipped-byte", "a file that changed at rest is never trained on", flipped_byte),
        Scenario("no-base-model", "jobs wait, uncounted, for a worker that can run them", no_base_model),
        Scenario("full-run-folder", "20 queued jobs wait for room, uncounted", full_run_folder),
        Scenario("full-store", "what was trained is published when there is room", full_store),
        Scenario("trainer-disk-full", "the job goes on from its last whole checkpoint", trainer_disk_full),
        Scenario("full-home", "deleting and cancelling work without a byte left", full_home),
        Scenario("slow-disk", "no live job is taken from its worker", slow_disk),
        Scenario("frozen-writer", "SQLite's lock is freed and the job taken over", frozen_writer),
        Scenario("killed-before-reply", "a job whose answer was lost is there, once", killed_before_reply),
        Scenario("killed-migration", "the next migration ends well", killed_migration),
        Scenario("postgres-restart", "503 meanwhile, then jobs go on", postgres_restart),
    )
}
