"""Threads in which texts are read: what is left of them once they are closed."""

import asyncio
import threading

from core.serving.text_readers import LONG_CHARS, TextReaders


def test_closed_readers_read_nothing_any_more() -> None:
    async def run() -> None:
        begun, may_end = threading.Event(), threading.Event()
        before = set(threading.enumerate())

        def read() -> bool:
            begun.set()
            return may_end.wait(timeout=60)

        readers = TextReaders()
        asked = asyncio.create_task(readers.run(read, chars=LONG_CHARS + 1))
        await asyncio.to_thread(begun.wait, 60)
        closing = asyncio.create_task(readers.close())
        await asyncio.to_thread(lambda: None)
        assert not closing.done(), "a text is being read"
        may_end.set()
        await closing
        left = set(threading.enumerate()) - before
        assert not [thread.name for thread in left if thread.name.startswith("long-texts")]
        assert await asked

    asyncio.run(run())
