"""Threads in which texts are rendered and tokenised: short ones side by side, long ones one after the other.

So a long text takes one core at most, and no thread that a short one could have. Knows nothing of what is read.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

LONG_CHARS: Final = 2**16  # about 0.1 s of work

Read = TypeVar("Read")


class TextReaders:
    """Used from one event loop. Not closed, its thread ends with the process."""

    def __init__(self) -> None:
        self._long = ThreadPoolExecutor(1, "long-texts")

    async def run(self, read: Callable[[], Read], *, chars: int) -> Read:
        """Run ``read``, about a text of so many characters, in a thread, and give what it gives."""
        if chars <= LONG_CHARS:
            return await asyncio.to_thread(read)
        return await asyncio.get_running_loop().run_in_executor(self._long, read)

    async def close(self) -> None:
        """Forget what waits, and let what is being read end, and the thread with it."""
        await asyncio.to_thread(self._long.shutdown, cancel_futures=True)
