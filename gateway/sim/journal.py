"""An append-only file with one JSON object per line, so that subscriptions survive a restart."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any


class Journal:
    """The file of one simulator.

    The file has mode 0600, because it contains private keys of simulated devices. A line that a crash truncated is
    dropped.
    """

    def __init__(self, path: Path) -> None:
        """Open or create the file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        self._path = path
        self._file: IO[bytes] = path.open("r+b")

    def replay(self) -> Iterator[dict[str, Any]]:
        """Yield the records, and truncate an incomplete last line."""
        valid_octets = 0
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            valid_octets += len(line)
            yield json.loads(line)
        self._file.seek(valid_octets)
        self._file.truncate()

    def append(self, records: Iterable[dict[str, Any]]) -> None:
        """Append records to the file."""
        self._file.write(b"".join(json.dumps(record, separators=(",", ":")).encode() + b"\n" for record in records))
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
