"""Every setting of the gateway, in one documented place.

Settings come from the environment as `GATEWAY_*`; options of the command line override them. What is wrong is said in
one line for each fault, by the name of the variable. Secrets may be in files instead (`GATEWAY_MASTER_KEY_FILE`), as
container platforms hand them out, and are never shown.
"""

import difflib
import os
import re
import secrets
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import SplitResult, urlsplit

from pydantic import Field, FilePath, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from gateway.domain.errors import OperatorError
from gateway.domain.notification import Lane

PREFIX = "GATEWAY_"
FROM_FILE = ("database_url", "queue", "admin_token", "master_key", "retired_master_keys", "metrics_token")
OF_OTHERS = ("GATEWAY_SERVER", "GATEWAY_KEY", "GATEWAY_TEST_DATABASE_URL")
"""Read by the command line, which asks a server, and by the tests."""
TILES = re.compile(r"https?://[\w.:\[\]-]+/(?=\S*\{z\})(?=\S*\{x\})(?=\S*\{y\})[^\s,;]*", re.ASCII)
SECRET = 32  # octets, both of a secret we make and of the shortest master key


class SettingsError(OperatorError):
    """A setting is wrong. The message has one line for each fault, which names the variable or the file."""


class Setting(NamedTuple):
    name: str
    value: str
    description: str


def default_data_dir() -> Path:
    """Where the user's data belongs; for root the system's place, since root's home is closed to Postgres."""
    if given := os.environ.get("XDG_DATA_HOME"):
        return Path(given) / "webpush-gateway"
    if os.geteuid() == 0:
        return Path("/var/lib/webpush-gateway")
    return Path.home() / ".local" / "share" / "webpush-gateway"


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, hide_input_in_errors=True, validate_default=True
    )

    database_url: SecretStr | None = Field(
        None, description="Postgres 14 or newer: postgresql://user:password@host:5432/name. Not set: embedded."
    )
    queue: SecretStr = Field(
        SecretStr("postgres"),
        description="Where workers get their jobs: 'postgres', the database itself, or the servers of NATS JetStream, "
        "comma separated: nats://user:password@host:4222, or tls:// to demand TLS.",
    )
    queue_ca: FilePath | None = Field(
        None, description="A file of CA certificates (PEM) to trust beside the usual ones for NATS."
    )
    admin_token: SecretStr | None = Field(
        None, description="The bearer token of the operator. Not set: DATA_DIR/admin-token, made by `gateway up`."
    )
    master_key: SecretStr | None = Field(
        None,
        description="At least 32 random characters, from which all keys that seal secrets derive. "
        "Not set: DATA_DIR/master-key, made by `gateway up`.",
    )
    retired_master_keys: SecretStr | None = Field(
        None,
        description="Master keys that open and seal nothing, one a line: the next one while processes are told of it, "
        "and the one before for as long as its tokens shall be known. `gateway secrets rotate --help` tells how.",
    )
    host: str = Field("127.0.0.1", description="The address to listen on.")
    port: int = Field(8080, ge=1, le=65535, description="The port to listen on.")
    public_url: str | None = Field(
        None, description="Where browsers reach the gateway: https://push.example.org. Needed for receipts."
    )
    push_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Push services allowed beside the four vendors', comma separated: push.example.org, "
        "*.example.org, or a whole origin such as http://127.0.0.1:9090.",
    )
    outbound_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Receivers of webhooks and feeds of alerts allowed beside https to the public web, as whole "
        "origins, comma separated: http://127.0.0.1:9000.",
    )
    metrics_token: SecretStr | None = Field(
        None,
        description="The bearer token that `/metrics` asks for. Not set: whoever reaches the address may read it.",
    )
    metrics_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="The port on which `work` and `relay` answer `/metrics` and `/healthz`. Not set: they listen on "
        "none. `serve` and `up` answer on their own.",
    )
    metrics_host: str = Field("127.0.0.1", description="The address for that port.")
    inbox_per_minute: int = Field(
        60, ge=1, le=100_000, description="How often a device may ask for its inbox, in a minute, of each server."
    )
    address_per_minute: int = Field(
        120_000,
        ge=1,
        le=10_000_000,
        description="Requests from one address (of IPv6: one /64) in a minute, to each server. Behind a proxy set "
        "GATEWAY_PROXIES too, or all count as one.",
    )
    key_per_minute: int = Field(
        300_000, ge=1, le=10_000_000, description="Requests with one API key in a minute, to each server."
    )
    proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Addresses and networks of your proxies, comma separated: 10.0.0.0/8. What they say in "
        "X-Forwarded-For is believed, and nobody else.",
    )
    push_ca: FilePath | None = Field(
        None, description="A file of CA certificates (PEM) to trust beside the usual ones for push services."
    )
    data_dir: Path = Field(
        default_factory=default_data_dir, description="Where `gateway up` keeps its database and secrets."
    )
    database_pool: int = Field(10, ge=2, le=1000, description="Database connections of one process, at the most.")
    worker_concurrency: int = Field(
        1024,
        ge=1,
        le=10_000,
        description="Messages that one worker has in flight at the most. How many it needs to be busy it finds out.",
    )
    worker_urgent_concurrency: int = Field(16, ge=1, le=10_000, description="As many more, for urgent messages alone.")
    worker_jobs: int = Field(
        4, ge=1, le=100, description="Jobs, of up to 500 devices each, that one worker has at hand."
    )
    worker_urgent_jobs: int = Field(4, ge=1, le=100, description="As many more, for urgent jobs alone.")
    lanes: Annotated[tuple[str, ...], NoDecode] = Field(
        tuple(lane.label for lane in Lane), description="The lanes a worker takes jobs from, comma separated."
    )
    lease: float = Field(60, ge=1, le=3600, description="Seconds after which the job of a dead worker is taken over.")
    drain: float = Field(30, ge=0, le=3600, description="Seconds a worker has to finish what it began, after SIGTERM.")
    retention_days: int = Field(90, gt=30, description="Days the delivery log is kept.")
    gone_devices_days: int = Field(
        30, ge=0, description="Days a device is kept after its push service said it is gone."
    )
    audit_days: int = Field(400, ge=1, description="Days the log of administrative acts is kept.")
    idempotency_hours: int = Field(24, ge=1, description="Hours an Idempotency-Key is remembered.")
    max_concurrent_requests: int = Field(
        1000, ge=1, le=100_000, description="Requests under way at once in one server. More are told to come again."
    )
    max_concurrent_imports: int = Field(
        16, ge=1, le=1000, description="NDJSON streams, of devices and of events, that one server takes at once."
    )
    max_concurrent_log_streams: int = Field(
        1000, ge=1, le=100_000, description="Live streams of the log at once from one server."
    )
    max_concurrent_live_channels: int = Field(
        20_000, ge=1, le=1_000_000, description="Live channels and long polls of devices at once with one server."
    )
    application_share: int = Field(
        50,
        ge=1,
        le=100,
        description="Percent of these imports, streams and channels that one application may have. More are told to "
        "come again.",
    )
    max_body: int = Field(1024 * 1024, ge=16 * 1024, description="Octets of a request's body, at the most.")
    map_tiles: str | None = Field(
        None,
        description="Where the console's maps get their pictures, with {z}, {x} and {y} in the address: "
        "https://tiles.example.org/{z}/{x}/{y}.png. Not set: outlines of the land, from no server.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="The least that is logged.")
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="'json' lines, or 'console' for people; 'auto': console when stderr is a terminal."
    )

    @field_validator("push_hosts", "outbound_hosts", "proxies", "lanes", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(dict.fromkeys(part.strip() for part in value.split(",") if part.strip()))
        return value

    @field_validator("log_level", "log_format", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("database_url")
    @classmethod
    def _is_postgres(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            parts = urlsplit(value.get_secret_value())
            if parts.scheme not in ("postgresql", "postgres"):
                raise ValueError("must begin with postgresql://")
        return value

    @field_validator("queue")
    @classmethod
    def _is_known_queue(cls, value: SecretStr) -> SecretStr:
        said = value.get_secret_value()
        for server in said.split(","):
            parts = urlsplit(server.strip())
            if said.lower() != "postgres" and not (parts.scheme in ("nats", "tls") and parts.hostname and _port(parts)):
                raise ValueError("must be 'postgres', or servers of NATS such as nats://10.0.0.1:4222, comma separated")
        return value

    @property
    def nats_servers(self) -> tuple[str, ...]:
        """Empty when jobs wait in the database itself."""
        said = self.queue.get_secret_value()
        return () if said.lower() == "postgres" else tuple(server.strip() for server in said.split(","))

    @field_validator("master_key")
    @classmethod
    def _is_long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value().encode()) < SECRET:
            raise ValueError(f"must have at least {SECRET} characters")
        return value

    @field_validator("retired_master_keys")
    @classmethod
    def _have_length(cls, value: SecretStr | None) -> SecretStr | None:
        if any(len(key.encode()) < SECRET for key in _lines(value)):
            raise ValueError(f"must have at least {SECRET} characters on each line")
        return value

    @field_validator("public_url")
    @classmethod
    def _is_web_address(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("must be a web address such as https://push.example.org")
        if parts.username or parts.password:
            raise ValueError("must not contain a password")
        return value.rstrip("/")

    @field_validator("map_tiles")
    @classmethod
    def _is_address_of_tiles(cls, value: str | None) -> str | None:
        # It becomes part of the console's content policy, in which blanks, commas and semicolons begin something else.
        if value is not None and not TILES.fullmatch(value):
            raise ValueError("must be a web address with {z}, {x} and {y}, and no blank, comma or semicolon")
        return value

    @field_validator("proxies")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for one in value:
            try:
                ip_network(one, strict=False)
            except ValueError:
                raise ValueError(f"{one!r} is neither an address nor a network such as 10.0.0.0/8") from None
        return value

    @field_validator("lanes")
    @classmethod
    def _are_lanes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        known = [lane.label for lane in Lane]
        if not value or set(value) - set(known):
            raise ValueError(f"must be some of {', '.join(known)}")
        return value

    @field_validator("data_dir")
    @classmethod
    def _is_absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @property
    def retired_keys(self) -> tuple[bytes, ...]:
        """The other master keys."""
        return tuple(key.encode() for key in _lines(self.retired_master_keys))

    def listed(self) -> list[Setting]:
        """Every setting by the name of its variable, with its value; of secrets only whether they are set."""
        return [
            Setting(_variable(name), _shown(name, getattr(self, name)), field.description or "")
            for name, field in type(self).model_fields.items()
        ]


def load_settings(**given: Any) -> Settings:
    """The environment's settings, and over them what is given by name. Raises SettingsError."""
    try:
        return Settings(**{**_from_files(os.environ), **given})
    except ValidationError as error:
        faults = [_fault(fault) for fault in error.errors(include_url=False, include_input=False)]
        raise SettingsError("\n".join(faults)) from None


def unknown_variables(environ: Mapping[str, str] | None = None) -> list[str]:
    """One line for each `GATEWAY_*` variable that is none of ours, with the one that was probably meant."""
    known = {_variable(name) for name in Settings.model_fields} | {f"{_variable(name)}_FILE" for name in FROM_FILE}
    lines = []
    for name in sorted(os.environ if environ is None else environ):
        if name.startswith(PREFIX) and name not in known and name not in OF_OTHERS:
            near = difflib.get_close_matches(
                name.removeprefix(PREFIX), [one.removeprefix(PREFIX) for one in known], n=1
            )
            lines.append(f"{name} is not a setting" + (f"; did you mean {PREFIX}{near[0]}?" if near else ""))
    return lines


def open_data_dir(path: Path) -> None:
    """Make the data directory, closed to others. Root's may be entered, not listed: Postgres runs as somebody else.

    Raises SettingsError.
    """
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        if os.geteuid() == 0:
            path.chmod(path.stat().st_mode & 0o777 | 0o011)
    except OSError as error:
        raise SettingsError(f"{_variable('data_dir')}: {path} cannot be made: {error.strerror}") from None


def load_or_create_secret(path: Path) -> str:
    """The secret in this file, which is made when it is missing: 32 random octets in base64url, mode 600.

    Of several who make it at once, one wins and all read the same. Raises SettingsError.
    """
    try:
        if not path.exists():
            _create_secret(path)
        if path.stat().st_mode & 0o077:
            raise SettingsError(f"{path} holds a secret and others may read it: chmod 600 {path}")
        secret = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise SettingsError(f"{path} cannot be used: {error.strerror}") from None
    if not secret:
        raise SettingsError(f"{path} is empty: remove it, and a new secret is made")
    return secret


def _create_secret(path: Path) -> None:
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(SECRET) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(fresh, path)  # unlike a rename, it leaves another's file alone
    except FileExistsError:
        pass
    finally:
        fresh.unlink(missing_ok=True)


def _from_files(environ: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for name in FROM_FILE:
        variable = f"{_variable(name)}_FILE"
        path = environ.get(variable)
        if not path:
            continue
        if environ.get(_variable(name)):
            raise SettingsError(f"{variable}: must not be set together with {_variable(name)}")
        try:
            found[name] = Path(path).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise SettingsError(f"{variable}: {path} cannot be read: {error.strerror}") from None
    return found


def _port(parts: SplitResult) -> bool:
    """Whether its port is one, if it has any: of a password with a slash in it, half would be taken for the port."""
    try:
        return parts.port is None or parts.port > 0
    except ValueError:
        return False


def _lines(value: SecretStr | None) -> list[str]:
    return [line for line in value.get_secret_value().splitlines() if line.strip()] if value else []


def _variable(name: str) -> str:
    return PREFIX + name.upper()


def _shown(name: str, value: object) -> str:
    if name == "queue" and isinstance(value, SecretStr):
        return ",".join(server.rpartition("@")[2] for server in value.get_secret_value().split(","))
    if name in FROM_FILE:
        return "set" if value else "not set"
    if isinstance(value, tuple):
        return ",".join(value)
    return "" if value is None else str(value)


def _fault(error: Any) -> str:
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "path_not_file":
        message = "must be the path of a file that exists"
    name = str(error["loc"][0]) if error["loc"] else ""
    return f"{_variable(name)}: {message.replace('Input should be', 'must be')}"
