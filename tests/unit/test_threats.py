"""The threat table in ops/docs/security.md has a defence and existing tests for every threat."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
SECURITY = ROOT / "ops" / "docs" / "security.md"
TEST_DEFINITION = re.compile(r"^(?:async )?def (test_\w+)\(", re.MULTILINE)


def threat_rows() -> list[list[str]]:
    """Return the cells of each row of the threat table: threat, defence, tests."""
    section = SECURITY.read_text().partition("\n## Threats and defences\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[1:]]


def defined_tests() -> set[str]:
    """Return the names of all test functions in the tree."""
    files = (ROOT / "tests").rglob("test_*.py")
    return {name for file in files for name in TEST_DEFINITION.findall(file.read_text())}


def test_threat_table_names_existing_tests() -> None:
    """Every threat has a defence and at least one test, and each named test exists."""
    names = defined_tests()
    assert len(threat_rows()) >= 23
    for threat, defence, tests in threat_rows():
        assert threat, defence
        cited = re.findall(r"`(\w+)`", tests)
        assert cited, threat
        assert set(cited) <= names, threat
