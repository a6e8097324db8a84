"""Whatever comes between whose steps, what is referred to is there; and what is not, is freed in the end.

Uploads of the same and of other bytes, deletions of files, publications of adapters that share a file, deletions of
models and jobs, and collections, cut into pieces and put in random orders, some killed in between. Without any grace,
which is hardest; and with one, within which nothing is freed that was stored or needed.
"""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from core.errors import BlobFreed, CollectionRuns, FileInUse, FileNotStored, JobInUse, JobNotEnded, ModelNotFound
from core.store.db import Database
from core.store.references.collector import Collector
from core.store.references.recorded import open_recorded
from core.store.tables import BlobState
from tests.core.store.references.baton import Baton, PausingStore
from tests.core.store.references.deployment import SHARED_CONFIG, StoreInUse, write_adapter

CONTENTS = (SHARED_CONFIG, b"weights 0", b"other examples")  # of uploads: parts of adapters, and something else
ACTORS = 5
GRACE_S = 3600


class Play:
    """One deployment, and actors that each do one random thing to it."""

    def __init__(self, database: Database, folder: Path, seed: int, grace_s: int) -> None:
        self._random = Random(seed)
        self._grace_s = grace_s
        self._passed_s = 0  # of the time that is made to pass; what a test takes is short beside it
        self._needed_s: dict[str, int] = {}  # when each blob was last referred to
        self._baton = Baton(self._random)
        self._folders = [write_adapter(folder / f"adapter-{number}", b"weights %d" % number) for number in range(2)]
        self.deployment = StoreInUse(database, PausingStore(folder / "store", database, self._baton))

    def schedule(self) -> None:
        """Play one random schedule."""
        acts = [self._act() for _ in range(ACTORS)]
        self._baton.play(acts, self._check)
        assert self.deployment.owned() == self.deployment.referenced()  # whose every arm a sentence has a name for

    def settle(self) -> None:
        """Delete what can be deleted and collect: no row is left but of what is referred to, and that is there."""
        for name in self.deployment.live_models():
            self.deployment.delete_model(name)
        for file_id in self.deployment.file_ids():
            self._delete([file_id], self.deployment.delete_file, FileNotStored)
        for job_id in self.deployment.job_ids():
            self._delete([job_id], self.deployment.delete_job, JobNotEnded)
        self._let_pass(self._grace_s)
        self._collector().collect()
        assert set(self.deployment.rows()) == self.deployment.referenced()
        self._check()

    def _check(self) -> None:
        assert self.deployment.lost() == set()
        if self._grace_s:
            assert self.deployment.freed_too_early(self._grace_s) == set()
            self._needed_s |= dict.fromkeys(self.deployment.referenced(), self._passed_s)
            for sha256, state in self.deployment.rows().items():
                if state is BlobState.DELETING and sha256 in self._needed_s:
                    assert self._passed_s - self._needed_s[sha256] >= self._grace_s

    def _collector(self) -> Collector:
        return Collector(self.deployment.database, self.deployment.blobs, self._grace_s)

    def _let_pass(self, seconds: int) -> None:
        self.deployment.age(seconds)
        self._passed_s += seconds

    def _act(self) -> Callable[[], None]:
        deployment, random = self.deployment, self._random
        kinds = ["upload", "upload", "delete file", "publish", "publish", "delete model", "delete job", "collect"]
        kind = random.choice([*kinds, "time passes", "time passes", "collect"] if self._grace_s else kinds)
        if kind == "upload":
            content = random.choice(CONTENTS)
            return lambda: self._again_until_kept(lambda: deployment.upload(content))
        if kind == "publish":
            lease, folder = deployment.claimed(), random.choice(self._folders)
            return lambda: self._again_until_kept(lambda: deployment.publish(lease, folder))
        if kind == "delete file":
            return lambda: self._delete(deployment.file_ids(), deployment.delete_file, FileNotStored)
        if kind == "delete model":
            return lambda: self._delete(deployment.live_models(), deployment.delete_model, ModelNotFound)
        if kind == "delete job":
            return lambda: self._delete(deployment.job_ids(), deployment.delete_job, JobNotEnded)
        if kind == "time passes":
            seconds = random.choice((self._grace_s // 3, self._grace_s + 60))
            return lambda: self._let_pass(seconds)
        return self._collect

    def _delete(self, names: list[str], delete: Callable[[str], object], gone: type[Exception]) -> None:
        if names:
            try:
                delete(self._random.choice(names))
            except (gone, FileInUse, JobInUse):
                return

    def _collect(self) -> None:
        try:
            self._collector().collect()
        except CollectionRuns:
            return

    def _again_until_kept(self, write: Callable[[], object]) -> None:
        """Do what writers do whose bytes are being freed, begin again; and what a sweeper does meanwhile."""
        for _ in range(100):
            try:
                write()
            except BlobFreed:
                self._collector().finish_for_dead()
            else:
                return
        raise AssertionError("a writer never got through")


def play(database: Database, folder: Path, *, schedules: int, seed: int, grace_s: int) -> None:
    acting = Play(database, folder, seed, grace_s)
    for number in range(schedules):
        try:
            acting.schedule()
            if number % 10 == 9:
                acting.settle()
        except AssertionError as failure:
            raise AssertionError(f"in schedule {number} of seed {seed}") from failure


@pytest.mark.parametrize("grace_s", [0, GRACE_S])
def test_nothing_referred_to_is_ever_lost_in_any_order_of_steps(
    database: Database, tmp_path: Path, grace_s: int
) -> None:
    play(database, tmp_path, schedules=10, seed=1, grace_s=grace_s)


@pytest.mark.slow
@pytest.mark.parametrize("grace_s", [0, GRACE_S])
@pytest.mark.parametrize("seed", range(2, 52))
def test_nothing_referred_to_is_ever_lost_in_ten_thousand_orders(
    database: Database, tmp_path: Path, seed: int, grace_s: int
) -> None:
    """On each database, a sixth of a second of one core for each."""
    play(database, tmp_path, schedules=100, seed=seed, grace_s=grace_s)


@pytest.mark.slow
def test_nothing_referred_to_is_lost_when_all_run_at_once(database: Database, tmp_path: Path) -> None:
    """Here transactions overlap too: eight writers and two collectors on twelve contents, for ten seconds."""
    deployment = StoreInUse(database, open_recorded(tmp_path / "store", database))
    ends_s = time.monotonic() + 10
    failures: list[str] = []
    counts = {"kept": 0, "freed": 0}

    def looping(act: Callable[[Random], None], seed: int) -> Callable[[], None]:
        def loop() -> None:
            random = Random(seed)
            while time.monotonic() < ends_s and not failures:
                act(random)

        return loop

    def write(random: Random) -> None:
        content = b"content %d" % random.randrange(12)
        try:
            file_id = deployment.upload(content)
        except BlobFreed:
            return
        counts["kept"] += 1
        time.sleep(random.random() * 0.02)
        if lost := deployment.lost():
            failures.append(f"lost {lost}")
        deployment.delete_file(file_id)

    def collect(random: Random) -> None:
        try:
            counts["freed"] += len(Collector(database, deployment.blobs, grace_s=0).collect())
        except CollectionRuns:
            time.sleep(0.001)

    acts = [looping(write, seed) for seed in range(8)] + [looping(collect, seed) for seed in (8, 9)]
    threads = [threading.Thread(target=act) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert counts["kept"] > 0
    assert counts["freed"] > 0
