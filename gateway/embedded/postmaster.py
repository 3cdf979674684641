"""Find out whether a Postgres runs on a data directory, from the file `postmaster.pid` in it.

The file remains after a `kill -9`, and a copy of the directory contains it too. So each of its statements is checked.
"""

import socket
from pathlib import Path
from typing import NamedTuple

# The first message of a TLS connection, and the possible responses of Postgres (its documentation, SSLRequest).
SSL_REQUEST = bytes.fromhex("00000008 04d2162f")
SSL_RESPONSES = (b"S", b"N")


class Postmaster(NamedTuple):
    """The contents of `postmaster.pid`. `memory_key` is the key of Postgres's shared memory block."""

    pid: int
    directory: Path
    port: int
    memory_key: int
    ready: bool

    def belongs_to(self, data: Path) -> bool:
        """Return whether the file was written by a Postgres on `data`, not on a directory that it was copied from.

        Postgres derives its memory key from the inode number of its directory.
        """
        try:
            return self.directory == data or (self.memory_key ^ data.stat().st_ino) & 0xFFFFFFFF == 0
        except OSError:
            return False

    @property
    def accepts_connections(self) -> bool:
        """Whether a Postgres responds at the port. The process id alone may belong to another program by now."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as conn:
                conn.settimeout(1)
                conn.sendall(SSL_REQUEST)
                return conn.recv(1) in SSL_RESPONSES
        except OSError:
            return False

    @property
    def is_postgres(self) -> bool:
        """Whether the process id belongs to a Postgres, as far as known. Without /proc it is assumed."""
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
