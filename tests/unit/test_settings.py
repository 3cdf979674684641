"""Settings from environment variables and secret files, and the errors of invalid ones."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway.settings import (
    Settings,
    SettingsError,
    load_or_create_secret,
    load_settings,
    open_data_dir,
    unknown_variables,
)


@pytest.fixture(autouse=True)
def clear_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the gateway's variables from the environment."""
    for name in list(os.environ):
        if name.startswith("GATEWAY_"):
            monkeypatch.delenv(name)


def test_every_setting_has_a_default_and_a_description() -> None:
    """`describe` returns the name, value and description of every setting."""
    rows = load_settings().describe()
    assert {row.name for row in rows} >= {"GATEWAY_DATABASE_URL", "GATEWAY_PORT", "GATEWAY_PUSH_HOSTS"}
    assert all(row.description for row in rows)
    assert {row.name: row.value for row in rows}["GATEWAY_PORT"] == "8080"


def test_options_override_environment_and_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """An option of the command line overrides a variable, and a variable overrides the default."""
    monkeypatch.setenv("GATEWAY_PORT", "9000")
    monkeypatch.setenv("GATEWAY_HOST", "::1")
    settings = load_settings(port=9001)
    assert (settings.port, settings.host, settings.worker_concurrency) == (9001, "::1", 1024)


def test_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose files pass variables that the operator left out as empty."""
    monkeypatch.setenv("GATEWAY_PORT", "")
    monkeypatch.setenv("GATEWAY_DATABASE_URL", "")
    assert (load_settings().port, load_settings().database_url) == (8080, None)


def test_list_setting_is_split_at_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spaces around the parts and empty parts are dropped."""
    monkeypatch.setenv("GATEWAY_PUSH_HOSTS", "push.example.org, http://127.0.0.1:9090,")
    monkeypatch.setenv("GATEWAY_OUTBOUND_HOSTS", "http://127.0.0.1:9000,https://hooks.lan")
    monkeypatch.setenv("GATEWAY_LANES", "urgent,bulk")
    settings = load_settings()
    assert settings.outbound_hosts == ("http://127.0.0.1:9000", "https://hooks.lan")
    assert settings.push_hosts == ("push.example.org", "http://127.0.0.1:9090")
    assert settings.lanes == ("urgent", "bulk")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("PORT", "http", "GATEWAY_PORT: must be a valid integer"),
        ("PORT", "70000", "GATEWAY_PORT: must be less than or equal to 65535"),
        ("DATABASE_URL", "mysql://root:hidden@db/x", "GATEWAY_DATABASE_URL: must begin with postgresql://"),
        ("QUEUE", "redis://broker:6379", "GATEWAY_QUEUE: must be 'postgres'"),
        ("QUEUE", "nats://me:hidden/2@n1:4222", "GATEWAY_QUEUE: must be 'postgres'"),
        ("MASTER_KEY", "hidden", "GATEWAY_MASTER_KEY: must have at least 32 characters"),
        ("PUBLIC_URL", "push.example.org", "GATEWAY_PUBLIC_URL: must be a web address such as"),
        ("PUBLIC_URL", "https://me:hidden@push.example.org", "GATEWAY_PUBLIC_URL: must not contain a password"),
        ("PUSH_CA", "/does/not/exist.pem", "GATEWAY_PUSH_CA: must be the path of a file that exists"),
        ("QUEUE_CA", "/does/not/exist.pem", "GATEWAY_QUEUE_CA: must be the path of a file that exists"),
        ("LANES", "urgent,slow", "GATEWAY_LANES: must be some of urgent, normal, bulk"),
        ("LANES", ",", "GATEWAY_LANES: must be some of urgent, normal, bulk"),
        ("RETENTION_DAYS", "30", "GATEWAY_RETENTION_DAYS: must be greater than 30"),
        ("MAP_TILES", "https://t.example; script-src */{z}/{x}/{y}", "GATEWAY_MAP_TILES: must be a web address with"),
        (
            "MAP_TILES",
            "https://t.example/{z}/{x}.png",
            "GATEWAY_MAP_TILES: must be a web address with {z}, {x} and {y}",
        ),
        ("LOG_LEVEL", "loud", "GATEWAY_LOG_LEVEL: must be 'debug', 'info', 'warning' or 'error'"),
        ("MASTER_KEY_FILE", "/does/not/exist", "GATEWAY_MASTER_KEY_FILE: /does/not/exist cannot be read"),
    ],
)
def test_invalid_setting_is_reported_with_its_variable(
    name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message is one line, starts with the variable, and does not contain the word "hidden" of secret values."""
    monkeypatch.setenv(f"GATEWAY_{name}", value)
    with pytest.raises(SettingsError) as error:
        load_settings()
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
    assert "hidden" not in str(error.value)


def test_every_invalid_setting_has_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error lists all invalid settings and not only the first."""
    monkeypatch.setenv("GATEWAY_PORT", "0")
    monkeypatch.setenv("GATEWAY_LEASE", "soon")
    with pytest.raises(SettingsError) as error:
        load_settings()
    assert [line.partition(":")[0] for line in str(error.value).splitlines()] == ["GATEWAY_PORT", "GATEWAY_LEASE"]


def test_public_url_loses_its_trailing_slash(monkeypatch: pytest.MonkeyPatch) -> None:
    """A path that begins with a slash can be appended to the URL."""
    monkeypatch.setenv("GATEWAY_PUBLIC_URL", "https://push.example.org/")
    assert load_settings().public_url == "https://push.example.org"


def test_broker_password_is_never_displayed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The address of the broker is displayed without its user and password."""
    monkeypatch.setenv("GATEWAY_QUEUE", "nats://me:Hidden@n1:4222, tls://n2")
    settings = load_settings()
    assert settings.nats_servers == ("nats://me:Hidden@n1:4222", "tls://n2")
    values = {row.name: row.value for row in settings.describe()}
    assert "n1:4222" in values["GATEWAY_QUEUE"]
    assert "Hidden" not in repr(settings) + str(values)


def test_secrets_are_never_displayed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret is displayed as "set" or "not set"."""
    monkeypatch.setenv("GATEWAY_MASTER_KEY", "hidden-" * 8)
    monkeypatch.setenv("GATEWAY_DATABASE_URL", "postgresql://me:hidden@db/x")
    settings = load_settings()
    values = {row.name: row.value for row in settings.describe()}
    assert (values["GATEWAY_MASTER_KEY"], values["GATEWAY_ADMIN_TOKEN"]) == ("set", "not set")
    assert "hidden" not in repr(settings) + str(values)


def test_secret_is_read_from_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable with the suffix _FILE has the path of a secret's file; to set the secret as well is an error."""
    (tmp_path / "token").write_text("from a file\n")
    monkeypatch.setenv("GATEWAY_ADMIN_TOKEN_FILE", str(tmp_path / "token"))
    token = load_settings().admin_token
    assert token is not None
    assert token.get_secret_value() == "from a file"
    monkeypatch.setenv("GATEWAY_ADMIN_TOKEN", "another")
    with pytest.raises(SettingsError, match="must not be set together with GATEWAY_ADMIN_TOKEN"):
        load_settings()


def test_unknown_variable_is_reported_with_a_suggestion() -> None:
    """A variable with the prefix GATEWAY_ that is no setting is reported, because it is probably misspelled."""
    lines = unknown_variables({"GATEWAY_PROT": "1", "GATEWAY_PORT": "1", "GATEWAY_XYZZY_PLUGH": "1", "PATH": "/bin"})
    assert lines == [
        "GATEWAY_PROT is not a setting; did you mean GATEWAY_PORT?",
        "GATEWAY_XYZZY_PLUGH is not a setting",
    ]
    assert unknown_variables({"GATEWAY_MASTER_KEY_FILE": "x"}) == []


def test_default_data_dir_follows_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory is below XDG_DATA_HOME or the home directory; for root it is /var/lib/webpush-gateway."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert Settings().data_dir == tmp_path / "webpush-gateway"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert Settings().data_dir == tmp_path / ".local/share/webpush-gateway"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert Settings().data_dir == Path("/var/lib/webpush-gateway")


def test_data_dir_is_created_with_mode_700(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the user may enter the directory; a directory that root creates may be traversed by other users."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    open_data_dir(tmp_path / "data" / "gateway")
    assert (tmp_path / "data" / "gateway").stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    open_data_dir(tmp_path / "data" / "gateway")  # the user of the embedded Postgres must pass through
    assert (tmp_path / "data" / "gateway").stat().st_mode & 0o777 == 0o711
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"GATEWAY_DATA_DIR: .*cannot be created"):
        open_data_dir(tmp_path / "file" / "below")


def test_secret_file_is_created_once_with_mode_600(tmp_path: Path) -> None:
    """The first call creates the file; the second call returns the secret in it."""
    path = tmp_path / "admin-token"
    secret = load_or_create_secret(path)
    assert len(secret) == 43  # 32 bytes in base64url
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_or_create_secret(path) == secret
    assert list(tmp_path.iterdir()) == [path]


def test_concurrent_creation_yields_one_secret(tmp_path: Path) -> None:
    """32 calls in eight threads return one secret, as processes that start at the same time must."""
    with ThreadPoolExecutor(8) as pool:
        created = set(pool.map(lambda _: load_or_create_secret(tmp_path / "key"), range(32)))
    assert len(created) == 1


def test_secret_file_readable_by_others_is_refused(tmp_path: Path) -> None:
    """The error contains the chmod command that corrects the mode of the file."""
    path = tmp_path / "key"
    load_or_create_secret(path)
    path.chmod(0o640)
    with pytest.raises(SettingsError, match=f"other users may read it: chmod 600 {path}"):
        load_or_create_secret(path)


def test_empty_secret_file_is_refused(tmp_path: Path) -> None:
    """An empty file is an error and not an empty secret."""
    (tmp_path / "key").touch(mode=0o600)
    with pytest.raises(SettingsError, match="is empty"):
        load_or_create_secret(tmp_path / "key")
