"""The README is short, the pages are linked, and documents and code cite only existing files.

tests/e2e/test_docs.py runs the code blocks of the documents; this module only reads files.
"""

import re
import tomllib
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from tests.support import documents
from tests.support.documents import PAGES, README, inline_code

ROOT = README.parent
MAX_README_BYTES = 6_000
PACKAGES = sorted(file.parent.name for file in (ROOT / "gateway").glob("*/__init__.py"))
# Without tests/data, whose README cites paths in other projects.
DOCUMENTS = tuple(file for file in documents.DOCUMENTS if "data" not in file.parts)
# The first word of an inline code span that is a path from the root of the repository.
REPOSITORY_PATH = re.compile(r"^(?:gateway|migrations|ops|tests|\.github)/[\w./@-]*")
# A document (`ops/bench/RESULTS.md`) or a module (`worker/relay.py`) that code cites.
CITED_FILE = re.compile(
    r"[\w./-]*\w\.md\b"
    rf"|(?<![\w/.-])(?:gateway|migrations|ops|tests|{'|'.join(PACKAGES)})/[\w/]+\.(?:py|js|css|json|ya?ml)\b"
)
NOT_IN_THE_REPOSITORY = {
    "gateway/client/generated.py",  # ops/client.py gives its generated text this name to format it
    "gateway/_migrations/env.py",  # the place of migrations/env.py in the wheel
}
SOURCES = {".py", ".js", ".ts", ".css", ".toml", ".yml", ".yaml", ".service", ".env", ".sh", ""}


def links(file: Path) -> list[str]:
    """Return the targets of all links and images of a document."""
    return [
        str(part.attrGet("href") or part.attrGet("src"))
        for token in MarkdownIt().enable("table").parse(file.read_text("utf-8"))
        for part in token.children or ()
        if part.type in ("link_open", "image")
    ]


def anchors(file: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a document."""
    headings = re.findall(r"^#+ (.+)$", file.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_readme_is_at_most_six_kilobytes() -> None:
    """The README is an overview; details are in the pages that it links."""
    assert len(README.read_bytes()) <= MAX_README_BYTES


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_document_cites_only_existing_files(document: Path) -> None:
    """Relative links lead to files and headings, and inline code names existing paths."""
    for link in links(document):
        if "://" in link or link.startswith(("/", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        assert not anchor or anchor in anchors(target), link
    for code in inline_code(document):
        for path in REPOSITORY_PATH.findall(code):
            assert (ROOT / path).exists(), path


def test_code_cites_only_existing_files() -> None:
    """A cited path is relative to the root, to gateway/ or to the citing file; a document may be cited by its name."""
    names = {file.name for file in (*DOCUMENTS, *(ROOT / ".github").rglob("*.md"))} | NOT_IN_THE_REPOSITORY
    missing = []
    for folder in ("gateway", "migrations", "ops", "tests", ".github"):
        for file in (ROOT / folder).rglob("*"):
            if file.suffix not in SOURCES or not file.is_file() or {"data", "__pycache__"} & set(file.parts):
                continue
            bases = (ROOT, ROOT / "gateway", file.parent)
            for cited in set(CITED_FILE.findall(file.read_text("utf-8", errors="replace"))) - names:
                if not any((base / cited).exists() for base in bases):
                    missing.append((str(file.relative_to(ROOT)), cited))
    assert missing == []


def test_every_page_is_reachable_from_the_readme() -> None:
    """Each page under gateway/static/docs, ops/docs and .github is linked from the README."""
    linked = {(ROOT / link).resolve() for link in links(README) if "://" not in link}
    pages = {*PAGES, *(ROOT / "ops" / "docs").glob("*.md"), *(ROOT / ".github").glob("[A-Z]*.md")}
    assert {page for page in pages if page not in linked and page.name != "PULL_REQUEST_TEMPLATE.md"} == set()
    assert set((ROOT / "gateway" / "static" / "docs").glob("*.md")) == set(PAGES)


def test_log_events_of_the_monitor_page_exist() -> None:
    """The code logs each event that the table in the section on logs lists."""
    section = (ROOT / "ops" / "docs" / "monitor.md").read_text().partition("\n## Logs\n")[2].partition("\n## ")[0]
    events = {
        event for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for event in row.strip("`").split("`, `")
    }
    code = "".join(file.read_text() for file in (ROOT / "gateway").rglob("*.py"))
    assert len(events) >= 9
    assert {event for event in events if f'"{event}"' not in code} == set()


def test_layers_of_the_architecture_page_match_the_contract() -> None:
    """The table of layers names every package of the import contract, in its order."""
    page = (ROOT / "ops" / "docs" / "architecture.md").read_text()
    section = page.partition("\n## Layers\n")[2].partition("\n#")[0]
    rows = [re.findall(r"`gateway\.(\w+)`", row.split("|")[2]) for row in section.splitlines() if row.startswith("| ")]
    row_of = {package: index for index, packages in enumerate(rows) for package in packages}
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    [layers] = [
        contract["layers"] for contract in contracts if contract["type"] == "layers" and "cli" in contract["layers"]
    ]
    packages = [package for layer in layers for package in layer.split(" | ") if package != "__main__"]
    assert set(row_of) == set(packages)
    assert [row_of[package] for package in packages] == sorted(row_of.values())
