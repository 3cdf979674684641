"""The life cycle of the embedded Postgres cluster.

A cluster belongs to one directory and listens on 127.0.0.1 alone, with a password in a file of mode 600. A lock held
for as long as we run keeps a second gateway off it; the kernel gives the lock back when we are killed, and the next
gateway adopts the Postgres we left behind. Postgres refuses to run as root, so root runs it as an ordinary user; where
that user may not come, it is handed the directory as an open descriptor.
"""

import fcntl
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from gateway.embedded.binaries import (
    EmbeddedUnavailable,
    can_run,
    copy_binaries,
    find_binaries,
    find_ordinary_user,
    succeeds,
)
from gateway.embedded.postmaster import read_pid_file

START_S = 60.0
STOP_S = 60.0
POLL_S = 0.02
# For root: where any user may run Postgres's binaries, when environment and data directory are closed to others.
SHARED = Path("/var/lib/webpush-gateway")
# After `kill -9` of Postgres its last processes may hold on for a moment; a port may be taken just before we listen.
PASSING_FAULTS = ("is still in use", "already exists", "could not bind", "could not create any TCP/IP sockets")


class EmbeddedPostgres:
    """One cluster in `directory`.

    `options` are Postgres's own settings, by name. All methods block and raise EmbeddedUnavailable.
    """

    def __init__(self, directory: Path, options: Mapping[str, str] | None = None) -> None:
        """Name the directory; nothing is created before `start`."""
        self.directory = directory.expanduser().resolve()
        self.data = self.directory / "pgdata"
        self.url = ""
        self._options = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": "100",
            "shared_buffers": "256MB",
            "log_checkpoints": "off",
            **(options or {}),
        }
        self._identity: dict[str, Any] = {}  # subprocess arguments that drop root's rights
        self._visible_directory = self.directory  # the path by which the ordinary user reaches it
        self._directory_fd = -1
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = -1

    def __enter__(self) -> Self:
        """Start the cluster."""
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Stop the cluster."""
        self.stop()

    @staticmethod
    def running_url(directory: Path) -> str | None:
        """Return the URL of the cluster in `directory` if it runs and its password can be read, else None."""
        directory = directory.expanduser().resolve()
        postmaster = read_pid_file(directory / "pgdata")
        if (
            postmaster is None
            or not postmaster.ready
            or not postmaster.is_of(directory / "pgdata")
            or not postmaster.answers
        ):
            return None
        try:
            return _url(directory, postmaster.port)
        except OSError:
            return None

    def start(self) -> str:
        """Start the cluster, creating it if necessary, or adopt one that a killed gateway left; return its URL."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            if os.geteuid() == 0:
                self.directory.chmod(self.directory.stat().st_mode & 0o777 | 0o011)
            self._take_lock()
        except OSError as error:
            raise EmbeddedUnavailable(f"{self.directory} cannot be used: {error.strerror}") from None
        try:
            self.url = self.running_url(self.directory) or self._start()
        except BaseException:
            self.stop()
            raise
        return self.url

    def stop(self) -> None:
        """Stop the cluster with Postgres's fast shutdown, which rolls back open transactions."""
        if self._lock < 0:
            return
        try:
            if self._process is not None:
                if self._process.poll() is None:
                    self._process.send_signal(signal.SIGINT)
                self._process.wait(STOP_S)
            elif self.url and self.running_url(self.directory):
                self._stop_adopted()
        finally:
            self._process, self.url, self._visible_directory = None, "", self.directory
            os.close(self._lock)
            self._lock = -1
            if self._directory_fd >= 0:
                os.close(self._directory_fd)
                self._directory_fd = -1

    def _take_lock(self) -> None:
        lock = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise EmbeddedUnavailable(
                f"another gateway already runs on {self.directory}; stop it, or choose another --data-dir"
            ) from None
        self._lock = lock

    def _start(self) -> str:
        binaries = self._reachable(find_binaries())
        if not (self.data / "PG_VERSION").exists():
            self._initialise(binaries)
        elif not _password_file(self.directory).exists():
            raise EmbeddedUnavailable(
                f"{_password_file(self.directory)} is missing; the database cannot be opened without"
            )
        self._forget_stale_pid()
        log_file = self.directory / "postgres.log"
        end = time.monotonic() + START_S
        with log_file.open("ab") as log:
            while True:
                begun = log.tell()
                port = self._launch(binaries, log.fileno(), end)
                if port is not None:
                    return _url(self.directory, port)
                log.seek(0, os.SEEK_END)
                output = log_file.read_bytes()[begun:].decode(errors="replace")
                if time.monotonic() > end or not any(fault in output for fault in PASSING_FAULTS):
                    raise EmbeddedUnavailable(f"Postgres did not start: {_complaint(output)}; see {log_file}")
                time.sleep(10 * POLL_S)

    def _launch(self, binaries: Path, log: int, end: float) -> int | None:
        """Start Postgres on a free port and wait until it is ready; None when it gave up."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        arguments = [f"--{name}={value}" for name, value in {**self._options, "port": str(port)}.items()]
        self._process = subprocess.Popen(  # noqa: S603  # our own binary and settings
            [binaries / "postgres", "-D", self._visible_directory / "pgdata", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,  # Ctrl-C is for us; we end Postgres when we are done with it
            **self._identity,
        )
        while time.monotonic() < end and self._process.poll() is None:
            postmaster = read_pid_file(self.data)
            if postmaster and postmaster.pid == self._process.pid and postmaster.ready and postmaster.answers:
                return port
            time.sleep(POLL_S)
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(STOP_S)
        return None

    def _stop_adopted(self) -> None:
        binaries = self._reachable(find_binaries())
        subprocess.run(  # noqa: S603  # our own binary
            [
                binaries / "pg_ctl",
                "stop",
                "-D",
                self._visible_directory / "pgdata",
                "-m",
                "fast",
                "-t",
                str(int(STOP_S)),
            ],
            check=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            **self._identity,
        )

    def _initialise(self, binaries: Path) -> None:
        """Into a directory of another name first: a half-made cluster is never taken for a whole one."""
        password, fresh = _password_file(self.directory), self.directory / "pgdata.new"
        password.unlink(missing_ok=True)
        shutil.rmtree(fresh, ignore_errors=True)
        written = os.open(password, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(written, "w") as file:
            file.write(secrets.token_urlsafe(24))
        fresh.mkdir(mode=0o700)
        if self._identity:
            for path in (password, fresh):
                os.chown(path, self._identity["user"], self._identity["group"])
        options = ["--username=postgres", "--encoding=UTF8", "--locale=C", "--data-checksums", "--auth=scram-sha-256"]
        result = subprocess.run(  # noqa: S603  # our own binary
            [
                binaries / "initdb",
                "-D",
                self._visible_directory / fresh.name,
                f"--pwfile={_password_file(self._visible_directory)}",
                *options,
            ],
            check=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd="/",
            **self._identity,
        )
        if result.returncode:
            raise EmbeddedUnavailable(f"Postgres could not make its database: {_complaint(result.stderr)}")
        fresh.rename(self.data)

    def _forget_stale_pid(self) -> None:
        """Remove the pid file of a cluster that was copied here while it ran, or whose process id is another's now.

        Should a Postgres still run on this directory after all, its shared memory block keeps the new one off.
        """
        postmaster = read_pid_file(self.data)
        if postmaster and not (postmaster.is_of(self.data) and postmaster.is_postgres):
            (self.data / "postmaster.pid").unlink()

    def _reachable(self, binaries: Path) -> Path:
        """The binaries where the user that Postgres runs as can reach them, copied if need be."""
        if os.geteuid() != 0:
            return binaries
        user = find_ordinary_user()
        self._identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        directory = self.directory
        if not self._may_enter(self.directory):
            self._open_directory(user.pw_name)
            directory = SHARED
        return binaries if can_run(binaries, **self._identity) else copy_binaries(binaries, directory, **self._identity)

    def _open_directory(self, user: str) -> None:
        """Open the directory to `user` by a descriptor: a path through /proc/self/fd needs no rights on its parents.

        Private directories of root above it stay private.
        """
        if self._directory_fd < 0:
            self._directory_fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        self._identity["pass_fds"] = (self._directory_fd,)
        self._visible_directory = Path(f"/proc/self/fd/{self._directory_fd}")
        if not self._may_enter(self._visible_directory):
            raise EmbeddedUnavailable(
                f"root may not run Postgres, and the user {user!r}, who runs it instead, cannot enter "
                f"{self.directory}: choose another --data-dir, such as {SHARED}"
            )

    def _may_enter(self, path: Path) -> bool:
        return succeeds("/bin/sh", "-c", 'cd "$1"', "sh", str(path), **self._identity)


def _password_file(directory: Path) -> Path:
    return directory / "pg.password"


def _url(directory: Path, port: int) -> str:
    return f"postgresql://postgres:{_password_file(directory).read_text().strip()}@127.0.0.1:{port}/postgres"


def _complaint(output: str) -> str:
    """Return the line of Postgres's output that gives the reason."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    grave = [line for line in lines if "FATAL" in line or "error:" in line]
    return (grave or lines or ["it gave no reason"])[-1]
