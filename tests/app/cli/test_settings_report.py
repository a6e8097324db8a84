"""The settings page."""

from pathlib import Path

from app.cli.settings_report import markdown, mask
from core.settings import Settings

PAGE = Path(__file__).resolve().parents[3] / "docs" / "settings.md"


def test_the_page_is_what_the_declarations_say() -> None:
    assert PAGE.read_text("utf-8") == markdown(), "run `loramill settings --markdown > docs/settings.md`"


def test_the_page_has_every_setting_with_its_bounds() -> None:
    page = markdown()
    assert all(f"| `LORAMILL_{name.upper()}` |" in page for name in Settings.model_fields)
    assert "| `LORAMILL_PORT` | whole number, ≥ 1, ≤ 65535 | `8000` |" in page


def test_passwords_in_urls_are_masked() -> None:
    assert mask({"a": "http://me:s3cret@host/"}) == {"a": "http://me:********@host/"}
    assert mask("redis://:s3cret@host:6379/0") == "redis://:********@host:6379/0"
    assert mask("sqlite:////tmp/a@b.db") == "sqlite:////tmp/a@b.db"
    assert mask("redis://127.0.0.1:6379/0") == "redis://127.0.0.1:6379/0"
