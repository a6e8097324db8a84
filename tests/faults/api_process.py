"""``python -m tests.faults.api_process``: the API as ``loramill api`` runs it, with failpoints."""

import os
from typing import cast

import uvicorn
from starlette.types import ASGIApp

from app.server import uvicorn_config
from core.process.logs import setup
from core.process.signs_of_life import show_signs_of_life
from core.settings import load_settings
from tests.faults.failpoints import DiesBeforeReplying


def main() -> None:
    settings = load_settings()
    setup(settings, "api")
    config = uvicorn_config(settings)
    config.app = DiesBeforeReplying(cast(ASGIApp, config.app), settings.home)
    show_signs_of_life(os.environ)
    uvicorn.Server(config).run()


if __name__ == "__main__":
    main()
