"""Sentences for clients, without the paths of this machine: a file is named, where it lies is not told.

Logs and terminals keep the paths. The borders at which a sentence leaves for a client are the writes of a
worker for its job (``worker.jobs.claim``) and the API's envelope of errors (``app.http.error_envelopes``).
"""

import os
import re
from functools import cache

_END = r"\s'\"`<>|,;:()\[\]{}"  # what ends a path in a sentence


def without_host_paths(text: str) -> str:
    """Give the text with each absolute path of this machine cut down to its last name.

    A path is one of this machine if it begins with a folder of its root, so that a route such as
    ``/v1/files`` stays.
    """
    return _pattern().sub(r"\1", text)


@cache
def _pattern() -> re.Pattern[str]:
    roots = "|".join(re.escape(entry.name) for entry in os.scandir("/") if entry.is_dir())
    # not behind a word or a dot: that is a URL or the rest of a relative path
    return re.compile(rf"(?<![\w./])/+(?:{roots})(?:/+[^/{_END}]+)*/+([^/{_END}]+)/*")
