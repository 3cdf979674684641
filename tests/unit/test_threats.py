"""The threats that README.md names, each with a defence and with tests that there are."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DEFINED = re.compile(r"^(?:async )?def (test_\w+)\(", re.MULTILINE)


def rows() -> list[list[str]]:
    section = (ROOT / "README.md").read_text().partition("\n## Security\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[1:]]


def names_of_tests() -> set[str]:
    files = (ROOT / "tests").rglob("test_*.py")
    return {name for file in files for name in DEFINED.findall(file.read_text())}


def test_every_threat_in_the_readme_has_a_defence_and_tests_that_there_are() -> None:
    known = names_of_tests()
    assert len(rows()) >= 23
    for threat, defence, proof in rows():
        assert threat, defence
        named = re.findall(r"`(\w+)`", proof)
        assert named, threat
        assert set(named) <= known, threat
