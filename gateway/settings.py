"""The gateway's settings.

Settings are read from environment variables named `GATEWAY_*`; options of the command line override them. For each
invalid setting there is one line that names the variable. A secret may be in a file, as container platforms provide it:
the path is then in a variable with the suffix `_FILE`, such as GATEWAY_MASTER_KEY_FILE. Secrets are never printed.
"""

import difflib
import os
import re
import secrets
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import SplitResult, quote, urlsplit, urlunsplit

from pydantic import Field, FilePath, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from gateway.domain.errors import OperatorError
from gateway.domain.notification import Lane

PREFIX = "GATEWAY_"
# Settings that may be in a file, whose path is in the variable with the suffix `_FILE`.
SECRET_SETTINGS = (
    *("database_password", "database_url", "queue", "admin_token", "master_key", "retired_master_keys"),
    "metrics_token",
)
# Variables with this prefix that are not settings: the command line and the tests read them.
OTHER_VARIABLES = ("GATEWAY_SERVER", "GATEWAY_KEY", "GATEWAY_TEST_DATABASE_URL")
TILE_URL = re.compile(r"https?://[\w.:\[\]-]+/(?=\S*\{z\})(?=\S*\{x\})(?=\S*\{y\})[^\s,;]*", re.ASCII)
# Size of a generated secret and minimum size of a master key, in bytes.
SECRET_BYTES = 32


class SettingsError(OperatorError):
    """One or more settings are invalid. The message has a line for each, which begins with its variable or file."""


class Setting(NamedTuple):
    """One row of `gateway settings`."""

    name: str
    value: str
    description: str


def default_data_dir() -> Path:
    """Return the user's data directory by the XDG rules; for root, a directory below /var/lib.

    The home directory of root is not accessible to the user that runs the embedded Postgres.
    """
    if data_home := os.environ.get("XDG_DATA_HOME"):
        return Path(data_home) / "webpush-gateway"
    if os.geteuid() == 0:
        return Path("/var/lib/webpush-gateway")
    return Path.home() / ".local" / "share" / "webpush-gateway"


class Settings(BaseSettings):
    """The settings of one process, validated."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, hide_input_in_errors=True, validate_default=True
    )

    database_password: SecretStr | None = Field(
        None, description="Password of the database user, if GATEWAY_DATABASE_URL contains none."
    )
    database_url: SecretStr | None = Field(
        None,
        description="Database: postgresql://user:password@host:5432/name, Postgres 14 or newer. Not set: the embedded "
        "Postgres of `gateway up`.",
    )
    queue: SecretStr = Field(
        SecretStr("postgres"),
        description="Job queue: 'postgres' for the database, or a comma-separated list of NATS JetStream servers: "
        "nats://user:password@host:4222, or tls:// to require TLS.",
    )
    queue_ca: FilePath | None = Field(
        None, description="File of CA certificates (PEM) to trust for NATS, in addition to the system's."
    )
    admin_token: SecretStr | None = Field(
        None, description="Bearer token of the operator. Not set: DATA_DIR/admin-token, which `gateway up` creates."
    )
    master_key: SecretStr | None = Field(
        None,
        description="Key material of at least 32 random characters; the keys that encrypt stored secrets are derived "
        "from it. Not set: DATA_DIR/master-key, which `gateway up` creates.",
    )
    retired_master_keys: SecretStr | None = Field(
        None,
        description="Master keys for decryption only, one per line: the previous key until nothing is encrypted or "
        "signed with it, and the next key while processes are being restarted. See `gateway secrets "
        "rotate --help`.",
    )
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8080, ge=1, le=65535, description="Port to listen on.")
    public_url: str | None = Field(
        None, description="URL at which browsers reach the gateway: https://push.example.org. Required for receipts."
    )
    push_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Push services to allow in addition to those of the four vendors, comma-separated: "
        "push.example.org, *.example.org, or an origin such as http://127.0.0.1:9090.",
    )
    outbound_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Origins to allow for webhooks and alert feeds in addition to https on public addresses, "
        "comma-separated: http://127.0.0.1:9000.",
    )
    metrics_token: SecretStr | None = Field(
        None,
        description="Bearer token required for `/metrics`. Not set: `/metrics` needs no token.",
    )
    metrics_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="Port on which each process serves `/metrics` and `/healthz`, apart from the API. Not set: none.",
    )
    metrics_host: str = Field("127.0.0.1", description="Address to listen on for GATEWAY_METRICS_PORT.")
    inbox_per_minute: int = Field(
        60, ge=1, le=100_000, description="Maximum inbox requests per device and minute, per server."
    )
    address_per_minute: int = Field(
        120_000,
        ge=1,
        le=10_000_000,
        description="Maximum requests per client address (IPv6: per /56, and eight times as many per /48) and minute, "
        "per server. Behind a proxy set GATEWAY_PROXIES too; otherwise all clients share the proxy's limit.",
    )
    key_per_minute: int = Field(
        300_000,
        ge=1,
        le=10_000_000,
        description="Maximum requests per API key and minute, per server. The addresses that use a publishable key "
        "share it fairly.",
    )
    new_devices_per_address: int = Field(
        6_000,
        ge=1,
        le=10_000_000,
        description="Maximum new devices per client address and minute, per server, with a publishable key. Registered "
        "devices are not counted.",
    )
    new_devices_per_minute: int = Field(
        60_000,
        ge=1,
        le=10_000_000,
        description="Maximum new devices per application and minute, per server, with a publishable key. The client "
        "addresses share it fairly.",
    )
    proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Addresses and networks of trusted proxies, comma-separated: 10.0.0.0/8. X-Forwarded-For is read "
        "from these only.",
    )
    push_ca: FilePath | None = Field(
        None, description="File of CA certificates (PEM) to trust for push services, in addition to the system's."
    )
    data_dir: Path = Field(
        default_factory=default_data_dir, description="Directory in which `gateway up` stores its database and secrets."
    )
    database_pool: int = Field(10, ge=5, le=1000, description="Maximum database connections per process.")
    worker_concurrency: int = Field(
        1024,
        ge=1,
        le=10_000,
        description="Maximum messages in flight per worker. The worker adapts its concurrency up to this limit.",
    )
    worker_urgent_concurrency: int = Field(
        16, ge=1, le=10_000, description="Additional messages in flight per worker, for urgent messages only."
    )
    worker_jobs: int = Field(
        4, ge=1, le=100, description="Jobs (of up to 500 devices each) that a worker loads at once."
    )
    worker_urgent_jobs: int = Field(
        4, ge=1, le=100, description="Additional jobs that a worker loads at once, for urgent jobs only."
    )
    lanes: Annotated[tuple[str, ...], NoDecode] = Field(
        tuple(lane.label for lane in Lane), description="Lanes from which the worker claims jobs, comma-separated."
    )
    lease: float = Field(
        60, ge=1, le=3600, description="Seconds after which another worker claims the job of a dead worker."
    )
    drain: float = Field(
        30, ge=0, le=3600, description="Seconds that a worker has to finish its messages in flight after SIGTERM."
    )
    retention_days: int = Field(90, gt=30, description="Days to keep the delivery log.")
    gone_devices_days: int = Field(
        30, ge=0, description="Days to keep a device after its push service reported that the subscription is gone."
    )
    audit_days: int = Field(400, ge=1, description="Days to keep the audit log.")
    idempotency_hours: int = Field(24, ge=1, description="Hours to keep idempotency keys.")
    max_concurrent_requests: int = Field(
        1000,
        ge=1,
        le=100_000,
        description="Maximum concurrent requests per server. Excess requests get 503 with Retry-After.",
    )
    max_concurrent_imports: int = Field(
        16,
        ge=1,
        le=1000,
        description="Maximum concurrent NDJSON streams (imports of devices, events) per server. Excess requests get "
        "503 with Retry-After.",
    )
    max_concurrent_log_streams: int = Field(
        1000,
        ge=1,
        le=100_000,
        description="Maximum concurrent live streams of the delivery log per server. Excess requests get 503 with "
        "Retry-After.",
    )
    max_concurrent_live_channels: int = Field(
        20_000,
        ge=1,
        le=1_000_000,
        description="Maximum concurrent live channels and inbox long polls per server. Excess requests get 503 with "
        "Retry-After.",
    )
    application_share: int = Field(
        50,
        ge=1,
        le=100,
        description="Percentage of the imports, log streams and live channels that one application may use. Excess "
        "requests get 503 with Retry-After.",
    )
    max_body: int = Field(1024 * 1024, ge=16 * 1024, description="Maximum size of a request body in bytes.")
    max_attributes: int = Field(
        16 * 1024, ge=1024, le=1024 * 1024, description="Maximum size of the attributes of a device in bytes of JSON."
    )
    map_tiles: str | None = Field(
        None,
        description="URL template of map tiles for the console, with {z}, {x} and {y}: "
        "https://tiles.example.org/{z}/{x}/{y}.png. Not set: the console draws country outlines and "
        "contacts no tile server.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Minimum level of log events.")
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="'json', or 'console' for people; 'auto' selects console when stderr is a terminal."
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
    def _is_postgres(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if value is None:
            return None
        parts, password = urlsplit(value.get_secret_value()), info.data.get("database_password")
        if parts.scheme not in ("postgresql", "postgres"):
            raise ValueError("must begin with postgresql://")
        if password is None:
            return value
        user, _, server = parts.netloc.rpartition("@")
        if not user or ":" in user:
            raise ValueError("must name a user without a password, because GATEWAY_DATABASE_PASSWORD is set")
        netloc = f"{user}:{quote(password.get_secret_value(), safe='')}@{server}"
        return SecretStr(urlunsplit(parts._replace(netloc=netloc)))

    @field_validator("queue")
    @classmethod
    def _is_known_queue(cls, value: SecretStr) -> SecretStr:
        queue = value.get_secret_value()
        for server in queue.split(","):
            parts = urlsplit(server.strip())
            is_nats = parts.scheme in ("nats", "tls") and bool(parts.hostname) and _has_valid_port(parts)
            if queue.lower() != "postgres" and not is_nats:
                raise ValueError("must be 'postgres', or servers of NATS such as nats://10.0.0.1:4222, comma separated")
        return value

    @property
    def nats_servers(self) -> tuple[str, ...]:
        """The NATS servers; empty when the database is the queue."""
        queue = self.queue.get_secret_value()
        return () if queue.lower() == "postgres" else tuple(server.strip() for server in queue.split(","))

    @field_validator("master_key")
    @classmethod
    def _is_long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value().encode()) < SECRET_BYTES:
            raise ValueError(f"must have at least {SECRET_BYTES} characters")
        return value

    @field_validator("retired_master_keys")
    @classmethod
    def _are_long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if any(len(key.encode()) < SECRET_BYTES for key in _lines(value)):
            raise ValueError(f"must have at least {SECRET_BYTES} characters on each line")
        return value

    @field_validator("public_url")
    @classmethod
    def _is_web_url(cls, value: str | None) -> str | None:
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
    def _is_tile_url(cls, value: str | None) -> str | None:
        # The URL becomes part of the console's Content-Security-Policy, in which spaces, commas and semicolons are
        # separators.
        if value is not None and not TILE_URL.fullmatch(value):
            raise ValueError("must be a web address with {z}, {x} and {y}, and no blank, comma or semicolon")
        return value

    @field_validator("proxies")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            try:
                ip_network(network, strict=False)
            except ValueError:
                raise ValueError(f"{network!r} is neither an address nor a network such as 10.0.0.0/8") from None
        return value

    @field_validator("lanes")
    @classmethod
    def _are_lanes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        labels = [lane.label for lane in Lane]
        if not value or set(value) - set(labels):
            raise ValueError(f"must be some of {', '.join(labels)}")
        return value

    @field_validator("data_dir")
    @classmethod
    def _is_absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @property
    def retired_keys(self) -> tuple[bytes, ...]:
        """The master keys for decryption only."""
        return tuple(key.encode() for key in _lines(self.retired_master_keys))

    def describe(self) -> list[Setting]:
        """Return every setting with its variable and value; for a secret, only whether it is set."""
        return [
            Setting(_variable(name), _display_value(name, getattr(self, name)), field.description or "")
            for name, field in type(self).model_fields.items()
        ]


def load_settings(**overrides: Any) -> Settings:
    """Return the settings from the environment and its secret files, overridden by the arguments.

    Raises:
        SettingsError: a setting is invalid, or a secret file cannot be read.
    """
    try:
        return Settings(**{**_read_secret_files(os.environ), **overrides})
    except ValidationError as error:
        lines = [_format_error(details) for details in error.errors(include_url=False, include_input=False)]
        raise SettingsError("\n".join(lines)) from None


def unknown_variables(environ: Mapping[str, str] | None = None) -> list[str]:
    """Return one line for each `GATEWAY_*` variable that is not a setting, with the most similar setting."""
    names = {_variable(name) for name in Settings.model_fields} | {
        f"{_variable(name)}_FILE" for name in SECRET_SETTINGS
    }
    lines = []
    for name in sorted(os.environ if environ is None else environ):
        if name.startswith(PREFIX) and name not in names and name not in OTHER_VARIABLES:
            candidates = [candidate.removeprefix(PREFIX) for candidate in names]
            matches = difflib.get_close_matches(name.removeprefix(PREFIX), candidates, n=1)
            lines.append(f"{name} is not a setting" + (f"; did you mean {PREFIX}{matches[0]}?" if matches else ""))
    return lines


def open_data_dir(path: Path) -> None:
    """Create the data directory with mode 700. Root's gets 711, since the embedded Postgres runs as another user.

    Raises:
        SettingsError: the directory cannot be created.
    """
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        if os.geteuid() == 0:
            path.chmod(path.stat().st_mode & 0o777 | 0o011)
    except OSError as error:
        raise SettingsError(f"{_variable('data_dir')}: {path} cannot be created: {error.strerror}") from None


def load_or_create_secret(path: Path) -> str:
    """Return the secret in a file. If the file is missing, create it with 32 random bytes in base64url and mode 600.

    Concurrent calls create one secret, and all return it.

    Raises:
        SettingsError: the file cannot be read or created, is empty, or is readable by others.
    """
    try:
        if not path.exists():
            _create_secret(path)
        if path.stat().st_mode & 0o077:
            raise SettingsError(f"{path} contains a secret, and other users may read it: chmod 600 {path}")
        secret = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise SettingsError(f"{path} cannot be used: {error.strerror}") from None
    if not secret:
        raise SettingsError(f"{path} is empty: remove it, and the gateway creates a new secret")
    return secret


def _create_secret(path: Path) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(SECRET_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)  # unlike rename(), link() fails if a concurrent call has created the file
    except FileExistsError:
        pass
    finally:
        temporary.unlink(missing_ok=True)


def _read_secret_files(environ: Mapping[str, str]) -> dict[str, str]:
    values = {}
    for name in SECRET_SETTINGS:
        variable = f"{_variable(name)}_FILE"
        path = environ.get(variable)
        if not path:
            continue
        if environ.get(_variable(name)):
            raise SettingsError(f"{variable}: must not be set together with {_variable(name)}")
        try:
            values[name] = Path(path).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise SettingsError(f"{variable}: {path} cannot be read: {error.strerror}") from None
    return values


def _has_valid_port(parts: SplitResult) -> bool:
    """Return whether the port is valid or absent. It is invalid if the password has a slash that is not encoded."""
    try:
        return parts.port is None or parts.port > 0
    except ValueError:
        return False


def _lines(value: SecretStr | None) -> list[str]:
    return [line for line in value.get_secret_value().splitlines() if line.strip()] if value else []


def _variable(name: str) -> str:
    return PREFIX + name.upper()


def _display_value(name: str, value: object) -> str:
    if name == "queue" and isinstance(value, SecretStr):
        return ",".join(server.rpartition("@")[2] for server in value.get_secret_value().split(","))
    if name in SECRET_SETTINGS:
        return "set" if value else "not set"
    if isinstance(value, tuple):
        return ",".join(value)
    return "" if value is None else str(value)


def _format_error(error: Any) -> str:
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "path_not_file":
        message = "must be the path of a file that exists"
    name = str(error["loc"][0]) if error["loc"] else ""
    return f"{_variable(name)}: {message.replace('Input should be', 'must be')}"
