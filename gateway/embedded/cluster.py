"""Start and stop the embedded Postgres cluster.

A cluster belongs to one directory. It listens on 127.0.0.1 only, and its password is in a file of mode 600. The gateway
holds a file lock while it runs, so that no second gateway uses the directory. When the gateway is killed, the kernel
releases the lock, and the next gateway adopts the Postgres that is still running.

Postgres refuses to run as root, so a gateway that runs as root starts Postgres as an ordinary user. If that user has no
access to the directory, Postgres inherits the directory as an open file descriptor.
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
from urllib.parse import urlsplit

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
# Where a gateway that runs as root copies Postgres's binaries, if other users can access neither the Python environment
# nor the data directory.
SHARED_DIRECTORY = Path("/var/lib/webpush-gateway")
# Error texts of Postgres after which its start is repeated. Processes of a killed Postgres may still be ending, and
# another program may take the port just before Postgres listens on it.
TRANSIENT_ERRORS = ("is still in use", "already exists", "could not bind", "could not create any TCP/IP sockets")


class EmbeddedPostgres:
    """The Postgres cluster in `directory`.

    `options` are settings of Postgres, by name. All methods block, and raise EmbeddedUnavailable when they fail.
    """

    def __init__(self, directory: Path, options: Mapping[str, str] | None = None) -> None:
        """Store the directory and options; nothing is created before `start`."""
        self.directory = directory.expanduser().resolve()
        self.data = self.directory / "pgdata"
        self.log_file = self.directory / "postgres.log"
        self.url = ""
        self._options = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": "100",
            "shared_buffers": "256MB",
            "log_checkpoints": "off",
            **(options or {}),
        }
        self._identity: dict[str, Any] = {}  # arguments of subprocess.run for processes of the ordinary user
        self._visible_directory = self.directory  # the path by which the ordinary user accesses the directory
        self._directory_fd = -1
        self._process: subprocess.Popen[bytes] | None = None
        self._port: int | None = None  # a restarted cluster keeps its port, so that its URL stays valid
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
        """Return the URL of the cluster in `directory`; None if it does not run or its password cannot be read."""
        directory = directory.expanduser().resolve()
        postmaster = read_pid_file(directory / "pgdata")
        if (
            postmaster is None
            or not postmaster.ready
            or not postmaster.belongs_to(directory / "pgdata")
            or not postmaster.accepts_connections
        ):
            return None
        try:
            return _url(directory, postmaster.port)
        except OSError:
            return None

    def start(self) -> str:
        """Start the cluster, or adopt a running one, and return its URL. The first start creates the cluster."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            if os.geteuid() == 0:
                # The ordinary user needs the execute permission to enter the directory.
                self.directory.chmod(self.directory.stat().st_mode & 0o777 | 0o011)
            self._acquire_lock()
        except OSError as error:
            raise EmbeddedUnavailable(f"{self.directory} cannot be used: {error.strerror}") from None
        try:
            self.url = self.running_url(self.directory) or self._start()
            self._port = urlsplit(self.url).port
        except BaseException:
            self.stop()
            raise
        return self.url

    @property
    def is_running(self) -> bool:
        """Whether the started or adopted cluster still runs."""
        if self._process is not None:
            return self._process.poll() is None
        postmaster = read_pid_file(self.data)
        return postmaster is not None and postmaster.is_postgres

    def restart(self) -> None:
        """Start the cluster again after its processes have ended, on the same port."""
        self._process = None
        self.url = self._start()

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

    def _acquire_lock(self) -> None:
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
        binaries = self._prepare_binaries(find_binaries())
        if not (self.data / "PG_VERSION").exists():
            self._initialise(binaries)
        elif not _password_file(self.directory).exists():
            raise EmbeddedUnavailable(
                f"{_password_file(self.directory)} is missing; without it the database cannot be opened"
            )
        self._remove_stale_pid_file()
        deadline = time.monotonic() + START_S
        with self.log_file.open("ab") as log:
            while True:
                log_offset = log.tell()
                port = self._launch(binaries, log.fileno(), deadline)
                if port is not None:
                    return _url(self.directory, port)
                log.seek(0, os.SEEK_END)
                output = self.log_file.read_bytes()[log_offset:].decode(errors="replace")
                if time.monotonic() > deadline or not any(error in output for error in TRANSIENT_ERRORS):
                    raise EmbeddedUnavailable(f"Postgres did not start: {_find_reason(output)}; see {self.log_file}")
                time.sleep(10 * POLL_S)

    def _launch(self, binaries: Path, log: int, deadline: float) -> int | None:
        """Start Postgres on a free port, wait until it is ready and return the port; None if it does not get ready."""
        port = self._port or _find_free_port()
        arguments = [f"--{name}={value}" for name, value in {**self._options, "port": str(port)}.items()]
        self._process = subprocess.Popen(  # noqa: S603  # our own binary and settings
            [binaries / "postgres", "-D", self._visible_directory / "pgdata", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,  # Ctrl-C must reach only the gateway, whose `stop` ends Postgres
            **self._identity,
        )
        while time.monotonic() < deadline and self._process.poll() is None:
            postmaster = read_pid_file(self.data)
            if (
                postmaster
                and postmaster.pid == self._process.pid
                and postmaster.ready
                and postmaster.accepts_connections
            ):
                return port
            time.sleep(POLL_S)
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(STOP_S)
        return None

    def _stop_adopted(self) -> None:
        """Stop a Postgres that an earlier gateway started."""
        binaries = self._prepare_binaries(find_binaries())
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
        """Create the cluster. Its data directory gets the final name only when the cluster is complete."""
        password, new_data = _password_file(self.directory), self.directory / "pgdata.new"
        password.unlink(missing_ok=True)
        shutil.rmtree(new_data, ignore_errors=True)
        descriptor = os.open(password, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(24))
        new_data.mkdir(mode=0o700)
        if self._identity:
            for path in (password, new_data):
                os.chown(path, self._identity["user"], self._identity["group"])
        options = ["--username=postgres", "--encoding=UTF8", "--locale=C", "--data-checksums", "--auth=scram-sha-256"]
        result = subprocess.run(  # noqa: S603  # our own binary
            [
                binaries / "initdb",
                "-D",
                self._visible_directory / new_data.name,
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
            raise EmbeddedUnavailable(f"Postgres could not create its database: {_find_reason(result.stderr)}")
        new_data.rename(self.data)

    def _remove_stale_pid_file(self) -> None:
        """Remove the pid file if no Postgres runs on this directory.

        The directory may have been copied while its Postgres ran, or the process id may belong to another program now.
        If a Postgres does run on this directory, a second one does not start: Postgres checks the shared memory block.
        """
        postmaster = read_pid_file(self.data)
        if postmaster and not (postmaster.belongs_to(self.data) and postmaster.is_postgres):
            (self.data / "postmaster.pid").unlink()

    def _prepare_binaries(self, binaries: Path) -> Path:
        """Return binaries that the user who runs Postgres can execute: the given ones, or else a copy.

        As root, this also chooses that user and gives it access to the directory.
        """
        if os.geteuid() != 0:
            return binaries
        user = find_ordinary_user()
        self._identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        directory = self.directory
        if not self._can_enter(self.directory):
            self._open_directory(user.pw_name)
            directory = SHARED_DIRECTORY
        return binaries if can_run(binaries, **self._identity) else copy_binaries(binaries, directory, **self._identity)

    def _open_directory(self, user: str) -> None:
        """Let `user` access the directory through an open file descriptor.

        A path through /proc/self/fd needs no permissions on the parent directories, so these stay private.
        """
        if self._directory_fd < 0:
            self._directory_fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        self._identity["pass_fds"] = (self._directory_fd,)
        self._visible_directory = Path(f"/proc/self/fd/{self._directory_fd}")
        if not self._can_enter(self._visible_directory):
            raise EmbeddedUnavailable(
                f"root may not run Postgres, and the user {user!r}, who runs it instead, cannot enter "
                f"{self.directory}: choose another --data-dir, such as {SHARED_DIRECTORY}"
            )

    def _can_enter(self, path: Path) -> bool:
        return succeeds("/bin/sh", "-c", 'cd "$1"', "sh", str(path), **self._identity)


def _find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _password_file(directory: Path) -> Path:
    return directory / "pg.password"


def _url(directory: Path, port: int) -> str:
    return f"postgresql://postgres:{_password_file(directory).read_text().strip()}@127.0.0.1:{port}/postgres"


def _find_reason(output: str) -> str:
    """Return the line of Postgres's output that gives the reason of a failure."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if "FATAL" in line or "error:" in line]
    return (errors or lines or ["it gave no reason"])[-1]
