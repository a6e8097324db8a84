"""`loramill disk` on a real home: whose each byte is, none counted twice, and none left out."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from core.serving.adapter_format import MANIFEST, WEIGHTS
from core.settings import Settings
from core.store.db import Database
from core.store.references.recorded import open_recorded
from tests.app.cli.command import loramill
from tests.core.store.references.deployment import SHARED_CONFIG, StoreInUse, write_adapter
from tests.harness.migrated import write_migrated

RESULTS = len(b"step,train_loss\n1,0.5\n")
EXAMPLES = len(b'{"prompt": "p", "completion": "c"}')


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def deployment(home: Path) -> Iterator[StoreInUse]:
    settings = Settings(home=home)
    home.mkdir()
    write_migrated(home / "loramill.db")
    database = Database(settings.database)
    yield StoreInUse(database, open_recorded(settings.store_folder, database))
    database.dispose()


def disk(home: Path) -> dict[str, int]:
    done = loramill(home, "disk", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    sizes = {kind: usage["bytes"] for kind, usage in told["kinds"].items()}
    assert told["total_bytes"] == sum(sizes.values())
    assert told["free_bytes"] > 0
    return sizes


def own_bytes(folder: Path) -> int:
    return sum((folder / name).stat().st_size for name in (MANIFEST, WEIGHTS))


def test_each_blob_is_counted_once_and_for_what_it_is_there(home: Path, deployment: StoreInUse, tmp_path: Path) -> None:
    folders = [write_adapter(tmp_path / str(number), b"weights %d" % number) for number in range(3)]
    models = [deployment.publish(deployment.claimed(), folder) for folder in folders[:2]]
    lease = deployment.claimed()
    deployment.checkpoint(lease, folders[2], 1)
    deployment.fail(lease)
    before = disk(home)
    assert before["files"] == EXAMPLES  # of three equal ones
    assert before["result_files"] == RESULTS
    assert before["models"] == own_bytes(folders[0]) + own_bytes(folders[1]) + len(SHARED_CONFIG)
    assert before["checkpoints"] == own_bytes(folders[2])
    assert {before[kind] for kind in ("waiting", "due", "exports", "unfinished_jobs", "unrecorded", "incoming")} == {0}

    freed = deployment.delete_model(models[0])
    after = disk(home)
    assert after["waiting"] == freed == before["models"] - after["models"]
    with deployment.database.write() as session:
        session.execute(text("UPDATE blobs SET touched_at = touched_at - 100000"))
    assert disk(home)["due"] == freed
    loramill(home, "gc")
    assert disk(home)["due"] == 0


def test_nothing_below_the_home_is_left_out_and_what_no_row_knows_is_told_apart(
    home: Path, deployment: StoreInUse
) -> None:
    deployment.upload(b"examples")
    stray = home / "store" / "blobs" / "ab" / ("ab" * 32)
    stray.parent.mkdir()
    stray.write_bytes(b"stray")
    for name in ("runs/ftjob-x/a1/trainer.log", "base-models/tiny/model", "kernels/k.so", "logs/api.log", "tuning/t"):
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"1234567")
    (home / "base-models" / "again").hardlink_to(home / "base-models" / "tiny" / "model")
    (home / "base-models" / "elsewhere").symlink_to(home / "store")
    sizes = disk(home)
    assert sizes["unrecorded"] == len(b"stray")
    assert {sizes[kind] for kind in ("runs", "base-models", "kernels", "logs", "other")} == {7}
    there = {path.stat().st_ino: path.stat().st_size for path in home.rglob("*") if path.is_file()}
    assert sum(sizes.values()) == sum(there.values())


def test_people_see_a_table_with_the_same_figures(home: Path, deployment: StoreInUse) -> None:
    deployment.upload(b"x" * 12_345)
    done = loramill(home, "disk", columns=200)
    [line] = [line for line in done.stdout.splitlines() if line.startswith("files")]
    assert "12,345 bytes" in line
    assert line.endswith("uploaded files")
    assert done.stdout.splitlines()[-1].startswith("free")
