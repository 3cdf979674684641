"""Read the lock file: every package with its version and hashes."""

import re
from pathlib import Path
from typing import NamedTuple

LOCK = Path(__file__).parents[1] / "requirements.lock"
_ENTRY = re.compile(r"^(?P<name>[A-Za-z0-9_.-]+)==(?P<version>[^\s;\\]+)(?P<rest>.*(?:\n[ \t]+.*)*)", re.MULTILINE)
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})\b")


class LockedPackage(NamedTuple):
    """A locked package: its normalised name, its version, and the SHA-256 hashes of its files."""

    name: str
    version: str
    hashes: tuple[str, ...]


def read_lock(text: str | None = None) -> list[LockedPackage]:
    """Return the locked packages in file order, with normalised names (PEP 503)."""
    content = LOCK.read_text() if text is None else text
    return [
        LockedPackage(canonical(entry["name"]), entry["version"], tuple(_HASH.findall(entry["rest"])))
        for entry in _ENTRY.finditer(content)
    ]


def canonical(name: str) -> str:
    """Return the normalised form of a package name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
