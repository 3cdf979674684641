"""The lock file, read: what is installed, in which version, and by which hashes."""

import re
from pathlib import Path
from typing import NamedTuple

LOCK = Path(__file__).parents[1] / "requirements.lock"
_ENTRY = re.compile(r"^(?P<name>[A-Za-z0-9_.-]+)==(?P<version>[^\s;\\]+)(?P<rest>.*(?:\n[ \t]+.*)*)", re.MULTILINE)
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})\b")


class Locked(NamedTuple):
    name: str
    version: str
    hashes: tuple[str, ...]


def locked(text: str | None = None) -> list[Locked]:
    """In their order, with names as the registry compares them."""
    read = LOCK.read_text() if text is None else text
    return [
        Locked(canonical(entry["name"]), entry["version"], tuple(_HASH.findall(entry["rest"])))
        for entry in _ENTRY.finditer(read)
    ]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
