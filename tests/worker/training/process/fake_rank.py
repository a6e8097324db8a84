"""A rank without torch, for the launcher's tests: FAKE_RANKS says for each what it does, as a JSON list."""

import argparse
import json
import os
import signal
import socket
import sys
import time

from core.jobs.events import EventLevel
from worker.trainer_process.messages import Failed, Message, Note, format_line
from worker.trainer_process.run_folder import EXIT_AGAIN, EXIT_FAILED

TOLD = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK", "LOCAL_RANK", "OMP_NUM_THREADS")


def main() -> int:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("folder")
    arguments.add_argument("--events-fd", type=int)
    arguments.add_argument("--store-fd", type=int)
    given = arguments.parse_args()

    def say(message: Message) -> None:
        os.write(given.events_fd, format_line(message))

    stops: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stops.append(number))
    store = "none"
    if given.store_fd is not None:
        host, port = socket.socket(fileno=given.store_fd).getsockname()
        store = f"{host}:{port}"
    told = {name: os.environ[name] for name in TOLD} | {"store": store, "pid": str(os.getpid())}
    say(Note(level=EventLevel.INFO, message=json.dumps(told)))
    print(json.dumps(told), flush=True)
    match json.loads(os.environ["FAKE_RANKS"])[int(os.environ["RANK"])]:
        case int(code):
            return code
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "fails":
            say(Failed(code="out_of_memory", message=f"rank {os.environ['RANK']}"))
            return EXIT_FAILED
        case "trains":
            while not stops:
                time.sleep(0.01)
            return EXIT_AGAIN
        case "hangs":
            while True:
                signal.pause()
    raise AssertionError


if __name__ == "__main__":
    sys.exit(main())
