"""Whether a Postgres runs on a directory: what its pid file says, and whether that is still so.

The file outlives a `kill -9` and travels with a copy of the directory, so nothing it says is taken on trust.
"""

import socket
from pathlib import Path
from typing import NamedTuple

ANSWER_TO_SSL_REQUEST = (b"S", b"N")
SSL_REQUEST = bytes.fromhex("00000008 04d2162f")


class Postmaster(NamedTuple):
    """What `postmaster.pid` says. `memory_key` is that of its shared memory block."""

    pid: int
    directory: Path
    port: int
    memory_key: int
    ready: bool

    def is_of(self, data: Path) -> bool:
        """Not of the directory that `data` was copied from. Postgres's memory key is its directory's inode number."""
        try:
            return self.directory == data or (self.memory_key ^ data.stat().st_ino) & 0xFFFFFFFF == 0
        except OSError:
            return False

    @property
    def answers(self) -> bool:
        """A process id proves nothing, it may be another's by now: ask the port."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as conn:
                conn.settimeout(1)
                conn.sendall(SSL_REQUEST)
                return conn.recv(1) in ANSWER_TO_SSL_REQUEST
        except OSError:
            return False

    @property
    def is_postgres(self) -> bool:
        """False only where /proc says that the process is gone or another's."""
        if not Path("/proc/self/comm").exists():
            return True
        try:
            return Path(f"/proc/{self.pid}/comm").read_text().strip() == "postgres"
        except OSError:
            return False


def read_pid_file(data: Path) -> Postmaster | None:
    """Read `postmaster.pid` of a data directory; return None when it is absent or incomplete."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
        memory_key = int(lines[6].split()[0])
        return Postmaster(int(lines[0]), Path(lines[1]), int(lines[3]), memory_key, lines[7].strip() == "ready")
    except IndexError:
        return None  # being written
    except (OSError, ValueError):
        return None
