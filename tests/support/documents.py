"""The documents of the repository, their fenced blocks and their inline code.

Tests that run the code blocks of a language get them from `fences`, so that no document is left out.
"""

from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt

from gateway.web.pages import docs
from tests.support.command import ROOT

# The pages that the gateway serves at /docs/.
PAGES = tuple(docs.FOLDER / f"{name}.md" for name in docs.PAGES)
README = ROOT / "README.md"
# The documents that exist in the repository only.
REPOSITORY_DOCUMENTS = (
    README,
    *(file for folder in (".github", "ops", "tests") for file in sorted((ROOT / folder).rglob("*.md"))),
)
DOCUMENTS = (*PAGES, *REPOSITORY_DOCUMENTS)
TUTORIAL = docs.FOLDER / "tutorial.md"


class Fence(NamedTuple):
    """A fenced or indented code block of a document."""

    file: Path
    language: str
    text: str


def fences(language: str | None = None, *, of: tuple[Path, ...] = DOCUMENTS) -> list[Fence]:
    """Return the code blocks of the documents `of` in reading order; by default those of every language."""
    blocks = [
        Fence(file, token.info, token.content.strip())
        for file in of
        for token in MarkdownIt().parse(file.read_text("utf-8"))
        if token.type in ("fence", "code_block")
    ]
    return [block for block in blocks if language in (None, block.language)]


def inline_code(file: Path) -> list[str]:
    """Return the code spans in the sentences and tables of a document."""
    return [
        part.content
        for token in MarkdownIt().enable("table").parse(file.read_text("utf-8"))
        for part in token.children or ()
        if part.type == "code_inline"
    ]
