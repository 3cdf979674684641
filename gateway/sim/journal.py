"""A file that is only appended to: one JSON object a line, so that subscriptions outlive the process."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any


class Journal:
    """Holds private keys of simulated devices, hence mode 0600. A line cut short by a crash is dropped."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        self._path = path
        self._file: IO[bytes] = path.open("r+b")

    def replay(self) -> Iterator[dict[str, Any]]:
        whole = 0
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            whole += len(line)
            yield json.loads(line)
        self._file.seek(whole)
        self._file.truncate()

    def append(self, records: Iterable[dict[str, Any]]) -> None:
        self._file.write(b"".join(json.dumps(record, separators=(",", ":")).encode() + b"\n" for record in records))
        self._file.flush()

    def close(self) -> None:
        self._file.close()
