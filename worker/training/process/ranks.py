"""The processes that train one adapter together, one per GPU: what they share out, add up and agree on.

Each holds the whole base model and all examples; what travels is the adapter's gradient, once a step, and single
numbers. How they are started is ``worker.training.process.launch``, and with one of them nothing here does anything.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from datetime import timedelta
from typing import Final, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from core.errors import RanksDiffer
from worker.training.process.loss_sums import LossSums
from worker.training.process.stopping import CheckStop, Stopped

T = TypeVar("T")

# How long the others wait for the first rank to answer held-out prompts or to save. Whether a trainer has been
# silent for too long is judged by its worker; whether a rank has died, by who started them.
TIMEOUT: Final = timedelta(days=1)
_DIGEST_BYTES: Final = 6  # of SHA-256: what a float64 holds to the last bit


class PeerLost(Exception):
    """Another rank ended or cannot be reached. Why is not known here, so it is nobody's failure yet."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together. The first one leads: it reports, and writes files.

    Where a method says "all", each rank must call it, at the same point of its work.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> "Ranks":
        """Read what `worker.training.process.launch` wrote; without it, there is one."""
        return cls(int(environ["RANK"]), int(environ["WORLD_SIZE"])) if "WORLD_SIZE" in environ else cls()

    def join(self, environ: Mapping[str, str], store_fd: int | None = None) -> None:
        """All: take the GPU of this rank, where there is one, and find the others.

        Args:
            store_fd: the first rank's: a listening socket at MASTER_ADDR and MASTER_PORT, where the others look for
                it. None: it opens one itself.

        Raises:
            PeerLost: they could not be reached.
        """
        if self.size == 1:
            return
        on_gpu = torch.cuda.is_available()
        if on_gpu:
            torch.cuda.set_device(int(environ["LOCAL_RANK"]))
        with _needing_peers():
            address, port = environ["MASTER_ADDR"], int(environ["MASTER_PORT"])
            store = dist.TCPStore(  # type: ignore[attr-defined]  # torch does not say that it exports it
                address, port, self.size, self.leads, TIMEOUT, master_listen_fd=store_fd
            )
            backend = backend_of(on_gpu)
            dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.size, timeout=TIMEOUT)

    def leave(self) -> None:
        """All: leave the others in good order."""
        if self.size > 1:
            dist.destroy_process_group()

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def share(self, items: Sequence[T], check_stop: CheckStop) -> Iterator[tuple[int, T]]:
        """All: give this rank's part of a sequence that all have, each item with its number in the whole.

        In each round every rank gets one item, and in the last one some get none. Before a round each looks for a
        stop, and all stop as soon as one has to.

        Raises:
            Stopped: on all of them.
        """
        for first in range(0, len(items), self.size):
            self._synchronized(check_stop)
            number = first + self.rank
            if number < len(items):
                yield number, items[number]

    def run_on_leader(self, work: Callable[[], T]) -> T | None:
        """All: wait while the leading rank does this alone, and give its result there, None elsewhere.

        Raises:
            Stopped: on all of them, when the leading one was told to stop.
        """
        return self._synchronized(work) if self.leads else self._synchronized(lambda: None)

    def _synchronized(self, work: Callable[[], T]) -> T:
        """Do one's own work and wait for the others'; where one is stopped in it, all are."""
        try:
            done = work()
        except Stopped:
            self.any(True)
            raise
        if self.any(False):
            raise Stopped
        return done

    def any(self, flag: bool) -> bool:
        """All: tell whether it is true on one of them."""
        return self._largest([float(flag)]) == [1.0]

    def min(self, value: int) -> int:
        """All: give the smallest of their values."""
        return -int(self._largest([float(-value)])[0])

    def sum_counts(self, *counts: int) -> list[int]:
        """All: add their counts up, one by one."""
        return [int(total) for total in self._reduced(list(map(float, counts)), dist.ReduceOp.SUM)]

    def sum_losses(self, sums: LossSums) -> LossSums:
        """All: add their sums up."""
        own = astuple(sums)
        totals = self._reduced(list(map(float, own)), dist.ReduceOp.SUM)
        return LossSums(*(type(value)(total) for value, total in zip(own, totals, strict=True)))

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """All: add their gradients up, in one message; a rank that had no micro-batch in a step adds zeros."""
        if self.size == 1:
            return
        trained = list(parameters)
        flat = torch.cat(
            [torch.zeros(one.numel(), device=one.device) if one.grad is None else one.grad.flatten() for one in trained]
        )
        with _needing_peers():
            dist.all_reduce(flat)
        for parameter, gradient in zip(trained, flat.split([one.numel() for one in trained]), strict=True):
            parameter.grad = gradient.view_as(parameter)

    def require_equal(self, step: int, tensors: Iterable[Tensor]) -> None:
        """All: see that they stand at the same step with the same bits.

        Raises:
            RanksDiffer: they do not.
        """
        if self.size == 1:
            return
        checksum = hashlib.sha256(str(step).encode())
        for tensor in tensors:
            checksum.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        digest = float(int.from_bytes(checksum.digest()[:_DIGEST_BYTES]))
        largest, minus_smallest = self._largest([digest, -digest])
        if largest != -minus_smallest:
            raise RanksDiffer(
                f"at step {step} the {self.size} processes of this run, one per GPU, hold different adapters; a GPU "
                "computes wrongly, or they read different files: look after the GPUs, and start the job anew"
            )

    def _largest(self, values: list[float]) -> list[float]:
        return self._reduced(values, dist.ReduceOp.MAX)

    def _reduced(self, values: list[float], how: dist.ReduceOp.RedOpType) -> list[float]:
        if self.size == 1:
            return values
        numbers = torch.tensor(values, dtype=torch.float64)
        with _needing_peers():
            dist.all_reduce(numbers, how)
        reduced: list[float] = numbers.tolist()
        return reduced


ALONE: Final = Ranks()


def backend_of(on_gpu: bool) -> str:
    """Name what ranks sum up with. Single numbers go by the CPU: on the GPU each would wait for all given to it."""
    return "cpu:gloo,cuda:nccl" if on_gpu else "gloo"


@contextmanager
def _needing_peers() -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # torch has no one class for it
        raise PeerLost(f"another rank cannot be reached any more: {error}") from error
