"""What waits is told by adapter, in few series."""

from core.serving.admission import Load
from worker.inference.metrics.adapter_queue import AdapterQueue
from worker.inference.metrics.adapter_usage import SHOWN


def read(queue: AdapterQueue) -> dict[str, dict[str, float]]:
    """Give each metric's values by adapter."""
    return {
        family.name.removeprefix("loramill_engine_queued_"): {
            sample.labels["adapter"]: sample.value for sample in family.samples
        }
        for family in queue.collect()
    }


def digest_of(number: int) -> str:
    return f"{number:064x}"[::-1]


def test_each_adapter_that_is_waited_for_is_told_beside_the_base_model() -> None:
    queue = AdapterQueue()
    queue.show({None: Load(1, 7), "a" * 64: Load(2, 30)})
    assert read(queue) == {
        "requests": {"none": 1, "a" * 12: 2, "other": 0},
        "tokens": {"none": 7, "a" * 12: 30, "other": 0},
    }


def test_an_adapter_that_nothing_waits_for_any_more_is_gone() -> None:
    queue = AdapterQueue()
    queue.show({"a" * 64: Load(2, 30)})
    queue.show({})
    assert read(queue)["requests"] == {"none": 0, "other": 0}


def test_only_the_adapters_for_which_most_tokens_wait_are_told_apart_and_none_is_lost() -> None:
    queue = AdapterQueue()
    queue.show({digest_of(number): Load(1, number) for number in range(SHOWN + 3)})
    found = read(queue)
    assert len(found["tokens"]) == SHOWN + 2  # and the base model, and the others
    assert found["tokens"]["other"] == 0 + 1 + 2
    assert found["requests"]["other"] == 3
    assert found["tokens"][digest_of(SHOWN + 2)[:12]] == SHOWN + 2
