"""A render setting is declared once: one that is added there is in all that renders, shows, counts or trains."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.planted_defects.planting import copy_project

SURFACES = "tests/app/fine_tuning/added_render_setting.py"


def insert_before(path: Path, line: str, added: str) -> None:
    text = path.read_text("utf-8")
    assert text.count(line) == 1
    path.write_text(text.replace(line, added + line), "utf-8")


@pytest.mark.slow  # it takes a copy of the project and a process of its own
def test_a_setting_that_is_declared_and_rendered_by_is_everywhere(tmp_path: Path) -> None:
    project = tmp_path / "project"
    copy_project(project)
    insert_before(
        project / "core/text/render_settings.py",
        "    prompt_loss_weight: float = Field(",
        '    shout: int = Field(0, ge=0, le=9, description="How loud answers end.")\n',
    )
    insert_before(
        project / "core/text/rendering.py",
        "        ids, spans = self._tokenizer.encode_spans(completion)\n",
        '        completion += "!" * self._settings.shout\n',
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", SURFACES]
    environment = os.environ | {"PYTHONPATH": str(project)}
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
