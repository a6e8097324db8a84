"""What an API process counts of the answers that models gave for aliases: for Prometheus at once, for all in the end.

The database has the sums of all processes. They are written every few seconds, so that no answer waits for a commit;
a process that is killed takes its last seconds' counts with it.
"""

import threading
from collections.abc import Collection
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from app.engines.counted import CountedAnswer
from core.errors import ServiceError
from core.serving.generation import FinishReason
from core.store.aliases import answers
from core.store.aliases.answers import AnswerCounts, AnsweredFor
from core.store.db import Database, Session

WRITTEN_EVERY_S: Final = 5.0
_SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_TOKENS: Final = (1, 4, 16, 64, 256, 1024, 4096)
_FAILED: Final = "failed"

_log = structlog.stdlib.get_logger(__name__)


class AliasMetrics:
    """One process's numbers, in a registry of their own. There are as many series as models that aliases stood for."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.answers = Counter(
            "loramill_alias_answers",
            "Answers for an alias, by how they ended: end, stop, length or failed.",
            ("alias", "model", "ended"),
            registry=self.registry,
        )
        self.seconds = Histogram(
            "loramill_alias_answer_seconds",
            "From asking the engine to a whole answer's end.",
            ("alias", "model"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.tokens = Histogram(
            "loramill_alias_answer_tokens",
            "Tokens of a whole answer.",
            ("alias", "model"),
            buckets=_TOKENS,
            registry=self.registry,
        )

    def exposition(self) -> bytes:
        """Give all numbers in Prometheus' text format."""
        return generate_latest(self.registry)


class AliasAnswers:
    """One process's counts. Safe in many threads; `count` never waits for the database."""

    def __init__(self, database: Database) -> None:
        self.metrics = AliasMetrics()
        self._database = database
        self._unwritten: dict[AnsweredFor, AnswerCounts] = {}
        self._lock = threading.Lock()  # of the dictionary
        self._writing = threading.Lock()  # held as long as counts are neither in the dictionary nor seen by readers

    def count(self, key: AnsweredFor, answer: CountedAnswer) -> None:
        """Count an answer."""
        labels = (key.alias, key.model)
        self.metrics.answers.labels(*labels, answer.reason or _FAILED).inc()
        if answer.reason is None:
            self._add({key: AnswerCounts(failed=1)})
            return
        self.metrics.seconds.labels(*labels).observe(answer.seconds)
        self.metrics.tokens.labels(*labels).observe(answer.tokens)
        stopped = int(answer.reason is not FinishReason.LENGTH)
        self._add({key: AnswerCounts(1, stopped, 0, answer.tokens, answer.seconds)})

    def sums(self, session: Session, alias: str, moves: Collection[int]) -> dict[AnsweredFor, AnswerCounts]:
        """Give what all processes have written of some of an alias' moves, and what this one has not written yet."""
        with self._writing:
            with self._lock:
                unwritten = dict(self._unwritten)
            sums = answers.list_counts(session, alias, moves)
        for key, counts in unwritten.items():
            if key.alias == alias and key.move in moves:
                sums[key] = sums.get(key, AnswerCounts()) + counts
        return sums

    def write(self) -> None:
        """Add what was counted since the last time to the database; what it does not take is kept for the next time."""
        with self._writing:
            with self._lock:
                counted, self._unwritten = self._unwritten, {}
            if not counted:
                return
            try:
                with self._database.write() as session:
                    answers.add(session, counted)
            except ServiceError as error:
                _log.warning("answers for aliases were counted and not written yet", reason=str(error))
                self._add(counted)

    def run(self, stop: threading.Event) -> None:
        """Write again and again, and a last time when it is to stop."""
        while not stop.wait(WRITTEN_EVERY_S):
            self.write()
        self.write()

    def _add(self, counted: dict[AnsweredFor, AnswerCounts]) -> None:
        with self._lock:
            for key, counts in counted.items():
                self._unwritten[key] = self._unwritten.get(key, AnswerCounts()) + counts
