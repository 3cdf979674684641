"""What there is to read, and its fenced blocks.

Whoever runs the blocks of a language asks here for all of them, so that a block is run wherever somebody writes it.
"""

from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt

from gateway.web.pages import docs
from tests.support.command import ROOT

PAGES = tuple(docs.FOLDER / f"{name}.md" for name in docs.PAGES)
README = ROOT / "README.md"
BESIDE = (README, *(file for folder in (".github", "ops", "tests") for file in sorted((ROOT / folder).rglob("*.md"))))
TUTORIAL = docs.FOLDER / "tutorial.md"


class Fence(NamedTuple):
    file: Path
    language: str
    text: str


def fences(language: str | None = None, *, of: tuple[Path, ...] = (*PAGES, *BESIDE)) -> list[Fence]:
    """In the order in which they are read; of any language when none is named."""
    found = [
        Fence(file, token.info, token.content.strip())
        for file in of
        for token in MarkdownIt().parse(file.read_text("utf-8"))
        if token.type in ("fence", "code_block")
    ]
    return [one for one in found if language in (None, one.language)]


def names(file: Path) -> list[str]:
    """What stands between backticks in its sentences and tables."""
    return [
        part.content
        for token in MarkdownIt().enable("table").parse(file.read_text("utf-8"))
        for part in token.children or ()
        if part.type == "code_inline"
    ]
