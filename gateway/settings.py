"""Every setting of the gateway, in one place: `GATEWAY_*` in the environment, listed by `gateway settings`.

A secret may also be read from a file that `GATEWAY_..._FILE` names, as container platforms mount them.
"""

import difflib
import os
import secrets
import stat
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

PREFIX = "GATEWAY_"
FILE_SUFFIX = "_FILE"
LANES = ("urgent", "normal", "bulk")
SHORTEST_SECRET = 32
# A notification lives for 28 days at the most, and its deliveries with it.
SHORTEST_RETENTION = 30


class SettingsError(Exception):
    """A setting that cannot be, in one line that names it."""


def _data_home() -> Path:
    if os.geteuid() == 0:  # Postgres runs as somebody else then, who could not enter root's home
        return Path("/var/lib/webpush-gateway")
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "webpush-gateway"


Several = Annotated[tuple[str, ...], NoDecode]


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, env_ignore_empty=True, extra="ignore")

    database_url: SecretStr | None = Field(
        None, description="postgresql://... ; left out, `gateway up` runs a Postgres of its own."
    )
    database_pool: int = Field(20, ge=4, le=500, description="Connections to the database, for each process.")
    queue: str = Field("postgres", description="Where jobs wait: postgres.")
    master_key: SecretStr | None = Field(
        None, description="Seals what is secret in the database; at least 32 random characters. Keep a copy."
    )
    admin_token: SecretStr | None = Field(None, description="The operator's credential; at least 32 characters.")
    data_dir: Path = Field(default_factory=_data_home, description="Where `gateway up` keeps its database and secrets.")
    host: str = Field("127.0.0.1", description="Listen on this address.")
    port: int = Field(8080, ge=1, le=65535, description="Listen on this port.")
    public_url: str | None = Field(
        None, description="Where browsers reach this gateway, such as https://push.example.org; receipts go there."
    )
    push_hosts: Several = Field(
        (),
        description="Push services beside the four vendors': push.example.org, *.example.org, or a whole origin "
        "such as http://127.0.0.1:9090, separated by commas.",
    )
    push_ca: Path | None = Field(None, description="A PEM file of CAs to trust beside the system's.")
    lanes: Several = Field(LANES, description="The lanes a worker takes jobs from: urgent,normal,bulk.")
    senders: int = Field(64, ge=1, le=2000, description="Messages a worker has in flight at the most.")
    urgent_senders: int = Field(16, ge=1, le=2000, description="And so many more that only urgent ones may use.")
    jobs: int = Field(4, ge=1, le=100, description="Jobs a worker holds at the most.")
    urgent_jobs: int = Field(4, ge=1, le=100, description="And so many more that only urgent ones may use.")
    lease: float = Field(60, ge=1, le=3600, description="Seconds after which a dead worker's job is another's.")
    drain: float = Field(30, ge=0, le=3600, description="Seconds a worker may finish in once it is told to stop.")
    retention_days: int = Field(90, ge=SHORTEST_RETENTION, le=3650, description="Days the log is kept.")
    gone_devices_days: int = Field(30, ge=1, le=3650, description="Days a device that is gone is kept.")
    idempotency_hours: int = Field(24, ge=24, le=720, description="Hours an Idempotency-Key is remembered.")
    log_level: str = Field("info", description="debug, info, warning or error.")
    log_format: str = Field("auto", description="json, console, or auto: console when stderr is a terminal.")

    @field_validator("push_hosts", "lanes", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("lanes")
    @classmethod
    def _known_lanes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or set(value) - set(LANES):
            raise ValueError(f"must be some of {', '.join(LANES)}, separated by commas")
        return tuple(lane for lane in LANES if lane in value)

    @field_validator("database_url")
    @classmethod
    def _postgres(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and value.get_secret_value().partition("://")[0] not in ("postgresql", "postgres"):
            raise ValueError("must begin with postgresql://")
        return value

    @field_validator("queue")
    @classmethod
    def _known_queue(cls, value: str) -> str:
        if value != "postgres":
            raise ValueError("must be postgres")
        return value

    @field_validator("master_key", "admin_token")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < SHORTEST_SECRET:
            raise ValueError(f"must have at least {SHORTEST_SECRET} characters; make one with: openssl rand -base64 32")
        return value

    @field_validator("public_url")
    @classmethod
    def _bare_url(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("https://", "http://")):
            raise ValueError("must begin with https:// or http://")
        return None if value is None else value.rstrip("/")

    @field_validator("push_ca")
    @classmethod
    def _readable(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_file():
            raise ValueError(f"there is no file {value}")
        return value

    @field_validator("log_level", "log_format")
    @classmethod
    def _known_word(cls, value: str) -> str:
        words = ("debug", "info", "warning", "error", "auto", "json", "console")
        if value.lower() not in words:
            raise ValueError(f"must be one of {', '.join(words)}")
        return value.lower()

    def listed(self) -> list["Listed"]:
        """Every setting as the operator may see it."""
        return [
            Listed(f"{PREFIX}{name.upper()}", _shown(getattr(self, name)), field.description or "")
            for name, field in type(self).model_fields.items()
        ]


class Listed(NamedTuple):
    name: str
    value: str
    description: str


def _shown(value: Any) -> str:
    match value:
        case SecretStr():
            return "set"
        case None | ():
            return "not set"
        case tuple():
            return ",".join(value)
        case _:
            return str(value)


def load_settings(**over: Any) -> Settings:
    """The environment's settings, and `over` them what the caller knows better. Raises SettingsError."""
    try:
        return Settings(**(_from_files() | over))
    except ValidationError as error:
        raise SettingsError("; ".join(map(_in_words, error.errors()))) from None


def unknown_variables() -> list[str]:
    """What is wrong with each GATEWAY_* variable that no setting has: a typo sets nothing, and says nothing."""
    names = [f"{PREFIX}{name.upper()}" for name in Settings.model_fields]
    names += [f"{PREFIX}{name.upper()}{FILE_SUFFIX}" for name in _secrets()]
    found = []
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in names and not name.startswith(f"{PREFIX}TEST_"):
            near = difflib.get_close_matches(name, names, 1)
            found.append(f"{name} is no setting" + (f"; did you mean {near[0]}?" if near else ""))
    return found


def _secrets() -> list[str]:
    return [name for name, field in Settings.model_fields.items() if field.annotation == SecretStr | None]


def _from_files() -> dict[str, str]:
    found = {}
    for name in _secrets():
        variable = f"{PREFIX}{name.upper()}{FILE_SUFFIX}"
        if path := os.environ.get(variable):
            try:
                found[name] = Path(path).read_text().strip()
            except OSError as error:
                raise SettingsError(f"{variable}: {path} cannot be read: {error.strerror}") from None
    return found


def _in_words(fault: Any) -> str:
    name = f"{PREFIX}{str(fault['loc'][0]).upper()}"
    said = fault["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    return f"{name}: {said}"


def load_or_create_secret(path: Path) -> str:
    """The secret in the file, which is made with 32 random octets if it is not there. Raises SettingsError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            mode = stat.S_IMODE(path.stat().st_mode)
            if mode & 0o077:
                raise SettingsError(f"{path} can be read by others (mode {mode:o}); chmod 600 it") from None
            found = path.read_text().strip()
            if len(found) < SHORTEST_SECRET:
                raise SettingsError(f"{path} holds no secret of {SHORTEST_SECRET} characters") from None
            return found
        made = secrets.token_urlsafe(32)
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{made}\n")
    except OSError as error:
        raise SettingsError(f"{path} cannot be used: {error.strerror}") from None
    return made
