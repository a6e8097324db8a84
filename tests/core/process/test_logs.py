"""Log lines as they leave a process."""

import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest

from core.process.logs import OncePerMinute

ROOT = Path(__file__).resolve().parents[3]

PROGRAM = """
import logging, structlog
from core.process import logs
from core.settings import Settings
settings = Settings(
    api_key="a-key-of-16-letters", database_url='postgresql+psycopg://me:p"w@db/x', log_json={as_json}
)
logs.setup(settings, "api")
log = structlog.stdlib.get_logger("here")
with structlog.contextvars.bound_contextvars(job_id="ftjob-1"):
    log.info("claimed", step=3)
    logging.getLogger("a.library").warning("connecting to redis://user:hidden@host/0")
    def answer(prompt):
        raise RuntimeError('refused: a-key-of-16-letters, p"w')
    try:
        answer("what somebody asked for")
    except RuntimeError:
        log.exception("failed")
log.debug("unseen")
"""


def lines(as_json: bool) -> list[str]:
    command = [sys.executable, "-c", PROGRAM.replace("{as_json}", str(as_json))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_json_lines_name_process_job_and_values() -> None:
    claimed, library, failed = [json.loads(line) for line in lines(as_json=True)]

    assert claimed["event"] == "claimed"
    assert (claimed["process"], claimed["job_id"], claimed["step"], claimed["level"]) == ("api", "ftjob-1", 3, "info")
    assert (library["logger"], library["job_id"]) == ("a.library", "ftjob-1")
    assert "RuntimeError" in json.dumps(failed["exception"])


@pytest.mark.parametrize("as_json", [False, True])
def test_no_secret_is_written(as_json: bool) -> None:
    text = "\n".join(lines(as_json))

    assert "refused: ***, ***" in text
    assert "redis://user:***@host/0" in text
    assert "a-key-of-16-letters" not in text
    assert "hidden" not in text
    assert "somebody asked" not in text  # a traceback has no values of variables


HOSTILE = """
import logging, structlog, sys
from core.process import logs
from core.settings import Settings
logs.setup(Settings(log_json={as_json}), "api")
evil = "x\\n2026-11-30 [info] forged\\r\\x1b[31mred\\x9b31m\\u2028\\u202ezzz"
log = structlog.stdlib.get_logger("here")
log.info(evil, path=evil.replace(" ", ""), **{evil: 1})
logging.getLogger("a.library").warning("saw %s", evil)
try:
    raise RuntimeError(evil)
except RuntimeError:
    log.exception("failed")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logs.EscapingFormatter("%(levelname)s %(message)s"))
    plain = logging.getLogger("trainer")
    plain.propagate = False
    plain.addHandler(handler)
    plain.exception("failed on %s", evil)
"""


@pytest.mark.parametrize("as_json", [False, True])
def test_what_others_wrote_begins_no_line_and_moves_no_terminal(as_json: bool) -> None:
    command = [sys.executable, "-c", HOSTILE.replace("{as_json}", str(as_json))]
    done = subprocess.run(command, capture_output=True, cwd=ROOT, check=True)
    text = done.stderr.decode()
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u202e]", text)
    assert "forged" in text
    assert [line for line in text.split("\n") if line.startswith("2026-11-30 [info] forged")] == []


def test_what_any_client_can_cause_is_told_once_a_minute() -> None:
    once = OncePerMinute()
    told = [once.filter(logging.makeLogRecord({"msg": "Invalid HTTP request received."})) for _ in range(100)]
    assert told == [True] + [False] * 99
    assert all(once.filter(logging.makeLogRecord({"msg": "Exception in ASGI application\n"})) for _ in range(3))
