"""Prompts of real prose: this project's own documentation, cut into pieces that share no beginning. No torch."""

from pathlib import Path
from typing import Final

from benchmarks.host.processes import ROOT
from core.text.tokenizer import TextTokenizer

SOURCES: Final = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs", "examples")


def read_prose(root: Path = ROOT) -> str:
    """Give all the prose that there is, in one text."""
    files: list[Path] = []
    for source in SOURCES:
        path = root / source
        files += sorted(path.rglob("*.md")) if path.is_dir() else [path]
    return "\n\n".join(file.read_text("utf-8") for file in files)


def cut_ids(base: Path, count: int, tokens: int, *, begin: int = 0) -> list[list[int]]:
    """Give prompts of so many tokens each; where the prose is used up, it is cut again between the first cuts."""
    ids = TextTokenizer.from_folder(base).encode(read_prose())
    whole = len(ids) // tokens - 1
    cuts = [number % whole * tokens + number // whole * 7 % tokens for number in range(begin, begin + count)]
    return [ids[cut : cut + tokens] for cut in cuts]


def cut_texts(base: Path, count: int, tokens: int, *, begin: int = 0) -> list[str]:
    """Give the same as texts, which servers may cut into a few tokens more or less."""
    tokenizer = TextTokenizer.from_folder(base)
    return [tokenizer.decode(ids) for ids in cut_ids(base, count, tokens, begin=begin)]
