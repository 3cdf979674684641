"""The `gateway` command: output, exit codes, and a server and a worker as separate processes."""

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from gateway.push.encryption import decode_base64url
from gateway.sim import Sim, Vendor
from tests.support.api import ADMIN, serve_api
from tests.support.command import command, free_ports, get_json, run_in_background, run_on_terminal
from tests.support.gateway_parts import gateway

MASTER_KEY = "a master key for tests that is long enough"
ADMIN_TOKEN = "an admin token for tests, of 32 characters"


@pytest.fixture
def settings(database_url: str) -> dict[str, str]:
    return {"GATEWAY_DATABASE_URL": database_url, "GATEWAY_MASTER_KEY": MASTER_KEY, "GATEWAY_ADMIN_TOKEN": ADMIN_TOKEN}


async def test_every_command_has_help() -> None:
    """`gateway --help` lists the commands, and each command has a help page."""
    overview = await command("--help")
    assert overview.code == 0
    for name in (
        "up",
        "serve",
        "work",
        "migrate",
        "doctor",
        "sim",
        "send",
        "alert",
        "feed",
        "audit",
        "prune",
        "settings",
    ):
        assert name in overview.out
        result = await command(name, "--help")
        assert (result.code, "Usage:" in result.out) == (0, True), name


def test_help_imports_no_heavy_modules() -> None:
    """The command line is built without importing the libraries that only some commands need."""
    code = "import sys, typer.main, gateway.cli; typer.main.get_command(gateway.cli.cli); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not set(loaded) & {"aiohttp", "sqlalchemy", "pydantic", "rich", "uvloop", "structlog", "gateway.app"}


def test_completion_suggests_commands_options_and_values(tmp_path: Path) -> None:
    """Completion in bash suggests commands, subcommands, options and the values of an option."""
    script = """
        gateway --install-completion >&2 && source ~/.bashrc
        try() { COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)); _gateway_completion gateway; echo "${COMPREPLY[@]}"; }
        try gateway del; try gateway deliveries li; try gateway deliveries list --out; try gateway send --lane ""
    """
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    result = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, env={"HOME": str(tmp_path), "PATH": path}, check=False
    )
    assert result.stdout.splitlines() == ["deliveries", "list", "--outcome", "urgent normal bulk"], result.stderr


async def test_campaign_can_be_paused_resumed_and_cancelled(settings: dict[str, str]) -> None:
    """The commands for a scheduled campaign print its new status, and the audit log has an entry for each."""
    create = ("apps", "create", "Shop", "--subject", "mailto:ops@example.org", "--origin", "https://shop.example.org")
    await command(*create, **settings)
    schedule = ("--at", "2027-07-01T09:00:00", "--timezone", "device")
    send = ("send", "--app", "Shop", "--title", "Sale", "--everyone", *schedule, "--json")
    sent = (await command(*send, **settings)).json
    assert sent["schedule"] == {"at": "2027-07-01T09:00:00", "timezone": "device"}
    for transition, status in (("pause", "paused"), ("resume", "scheduled"), ("cancel", "cancelled")):
        assert (await command("campaign", transition, sent["id"], **settings)).out.strip() == status
    entries = (await command("audit", "--app", "Shop", "--json", **settings)).json["items"]
    assert [entry["action"] for entry in reversed(entries)] == [
        "applications.create",
        "notifications.pause",
        "notifications.resume",
        "notifications.cancel",
    ]
    assert {entry["actor"] for entry in entries} == {"command line"}
    failed = await command("campaign", "resume", sent["id"], **settings)
    assert (failed.code, failed.err) == (1, "gateway: the notification was cancelled\n")


async def test_usage_errors_exit_2_and_failures_exit_1(settings: dict[str, str]) -> None:
    """A usage error exits with 2, and a failure exits with 1 and one line; neither prints a traceback."""
    for arguments in (["nonsense"], ["apps", "create"], ["send", "--app", "x", "--title", "t"], ["up", "--port", "x"]):
        result = await command(*arguments, **settings)
        assert result.code == 2, arguments
        assert "Traceback" not in result.err
    list_command = ["deliveries", "list"]
    for environment in ({"GATEWAY_SERVER": "localhost:8080", "GATEWAY_KEY": "sk_x"}, {"GATEWAY_KEY": "sk_x"}):
        assert (await command(*list_command, **environment)).code == 2, environment
    assert "Did you mean 'send'?" in (await command("sned")).err
    unreachable = settings | {"GATEWAY_DATABASE_URL": "postgresql://nobody:secret@127.0.0.1:1/none"}
    for arguments, environment in (
        (["apps", "list"], unreachable),
        (["migrate"], unreachable),
        (["apps", "list"], {"GATEWAY_DATA_DIR": "/nonexistent/gateway"}),
        (list_command, {"GATEWAY_SERVER": "http://127.0.0.1:1", "GATEWAY_KEY": "sk_x"}),
        (["apps", "list"], settings | {"GATEWAY_PORT": "high"}),
        (["apps", "list"], settings | {"GATEWAY_MASTER_KEY": "short"}),
        (["apps", "create", "x", "--subject", "nobody", "--origin", "nowhere"], settings),
        (["send", "--app", "nothing", "--title", "t", "--everyone"], settings),
        (["campaign", "status", "nonsense"], settings),
    ):
        result = await command(*arguments, **environment)
        assert result.code == 1, (arguments, result)
        assert result.err.startswith("gateway: "), (arguments, result.err)
        assert result.err.count("\n") == 1, (arguments, result.err)
        assert "secret" not in result.err


async def test_serve_and_work_deliver_as_separate_processes(settings: dict[str, str], tmp_path: Path) -> None:
    """A server and a worker deliver a campaign and an alert, and the commands for a remote server display both."""
    port = free_ports(1)
    base = f"http://127.0.0.1:{port}"
    async with Sim() as sim:
        settings |= {"GATEWAY_PUSH_HOSTS": ",".join(sim.origins.values()), "GATEWAY_PUBLIC_URL": base}
        application = (
            await command(
                *("apps", "create", "Weather", "--subject", "mailto:ops@example.org"),
                *("--origin", "https://app.example.org", "--json"),
                **settings,
            )
        ).json
        subscribers = sim.subscribe_many(Vendor.APPLE, 3, decode_base64url(application["vapid_public_key"]))
        async with (
            run_in_background("serve", "--port", str(port), **settings) as serve,
            run_in_background("work", "--lanes", "urgent,normal", **settings) as work,
        ):
            await serve.wait_for_output("web.listening")
            await work.wait_for_output("worker.started")
            async with aiohttp.ClientSession(base) as http:
                for subscriber in subscribers:
                    headers = {"Authorization": f"Bearer {application['secret_key']}"}
                    body = {"subscription": subscriber.to_json(), "topics": ["weather"], "user_id": "u-1"}
                    async with http.post("/v1/devices", json=body, headers=headers) as response:
                        assert response.status == 201
            remote = {"GATEWAY_SERVER": base, "GATEWAY_KEY": application["secret_key"]}
            async with run_on_terminal("deliveries", "tail", **remote) as tail:
                await tail.wait_for_output("press Ctrl-C to stop")
                storm = ("send", "--title", "Storm", "--body", "Stay inside", "--topic", "weather")
                sent = (await command(*storm, "--json", **remote)).json
                await tail.wait_for_output("\x1b[1;32maccepted", times=3)
                assert await tail.stop(signal.SIGINT) == 0
            watch = await command("campaign", "status", sent["id"], "--watch", "--json", **remote)
            assert "done 3 of 3" in watch.err
            campaign = watch.json
            assert (campaign["status"], campaign["progress"]["accepted"]) == ("done", 3)
            alert_file = tmp_path / "alert.json"
            alert_file.write_text(json.dumps({"event": "Storm", "severity": "Severe", "audience": {"user_id": "u-1"}}))
            alert = (await command("alert", str(alert_file), "--json", **remote)).json
            assert alert["delivery"]["lane"] == "urgent"
            await command("campaign", "status", alert["id"], "--watch", **settings)
            page = (await command("deliveries", "list", "--app", "Weather", "--json", **settings)).json
            assert len(page["items"]) == 6
            table = (await command("deliveries", "list", **remote)).out
            assert (table.count("accepted  201"), "\x1b" in table) == (6, False)
            wrong_key = await command("deliveries", "list", **(remote | {"GATEWAY_KEY": "sk_wrong"}))
            assert (wrong_key.code, "GATEWAY_KEY" in wrong_key.err) == (1, True)
            assert [len(subscriber.messages) for subscriber in subscribers] == [2, 2, 2]
            notifications = (await get_json(base, "/v1/notifications", application["secret_key"]))["items"]
            assert notifications[0]["id"] == alert["id"]
            assert await work.stop() == 0
            assert await serve.stop() == 0


async def test_remote_operator_manages_applications_and_keys(database_url: str) -> None:
    """With the URL of a server and its admin token, the commands work without access to the database."""
    async with gateway(database_url) as parts, serve_api(parts) as api:
        await create_and_remove_keys({"GATEWAY_SERVER": api.origin, "GATEWAY_KEY": ADMIN})
        remote = {"GATEWAY_SERVER": api.origin, "GATEWAY_KEY": api.secret}
        failed = await command("apps", "list", **remote)
        assert (failed.code, "this needs admin" in failed.err) == (1, True)


async def create_and_remove_keys(settings: dict[str, str]) -> None:
    """Create the application Shop, and create, list and remove keys of Shop, with these settings."""
    app = ("--app", "Shop")
    application = await command("apps", "create", "Shop", "--subject", "mailto:ops@example.org", **settings)
    assert application.code == 0
    assert "sk_" in application.out
    key = (await command("keys", "create", *app, "--scope", "read", "--json", **settings)).json
    assert key["scopes"] == ["read"]
    keys = (await command("keys", "list", *app, "--json", **settings)).json["items"]
    assert key["id"] in [entry["id"] for entry in keys]
    assert key["key"] not in json.dumps(keys)
    assert (await command("keys", "remove", key["id"], *app, **settings)).code == 0
    assert (await command("keys", "remove", key["id"], *app, **settings)).code == 1
    assert (await command("keys", "create", *app, "--scope", "everything", **settings)).code == 2
    page = (await command("apps", "list", "--json", **settings)).json
    assert [entry["name"] for entry in page["items"]] == ["Weather", "Shop"]


async def test_doctor_reports_errors(settings: dict[str, str], empty_database_url: str) -> None:
    """A wrong setting, master key, schema or database fails its check of `gateway doctor`, and no other check."""
    await command("apps", "create", "Shop", "--subject", "mailto:ops@example.org", **settings)
    healthy = await command("doctor", "--offline", "--json", **settings)
    assert all(check["ok"] for check in healthy.json), healthy.out
    for change, check in (
        ({"GATEWAY_PROT": "80"}, "settings"),
        ({"GATEWAY_MASTER_KEY": "another master key that is long enough"}, "master key"),
        ({"GATEWAY_DATABASE_URL": empty_database_url}, "migrations"),
        ({"GATEWAY_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}, "database"),
    ):
        result = await command("doctor", "--offline", "--json", **(settings | change))
        assert result.code == 1, change
        assert [entry["check"] for entry in json.loads(result.out) if not entry["ok"]] == [check], result.out


@pytest.mark.parametrize("role", ["serve", "work", "up"])
async def test_wrong_key_or_old_schema_prevents_start(
    settings: dict[str, str], empty_database_url: str, role: str
) -> None:
    """A process whose master key or database schema is wrong exits with a line that names the cause."""
    await command("apps", "create", "Shop", "--subject", "mailto:ops@example.org", **settings)
    for change, message in (
        ({"GATEWAY_MASTER_KEY": "another master key that is long enough"}, "the master key does not decrypt"),
        ({"GATEWAY_DATABASE_URL": empty_database_url}, "run `gateway migrate`"),
    ):
        if role == "up" and "GATEWAY_DATABASE_URL" in change:
            continue  # `gateway up` migrates the database itself
        result = await command(role, **settings | change | {"GATEWAY_PORT": str(free_ports(1))})
        assert (result.code, message in result.err.splitlines()[-1]) == (1, True), result.err


async def test_settings_hides_secrets(settings: dict[str, str]) -> None:
    """`gateway settings` prints `set` or `not set` for a secret, and never its value."""
    result = await command("settings", "--json", **settings)
    values = {entry["name"]: entry["value"] for entry in result.json}
    assert values["GATEWAY_PORT"] == "8080"
    assert values["GATEWAY_MASTER_KEY"] == "set"
    assert all(entry["description"] for entry in result.json)
    assert MASTER_KEY not in result.out
    assert ADMIN_TOKEN not in result.out


async def test_migrate_and_prune_are_repeatable(settings: dict[str, str], empty_database_url: str) -> None:
    """A second `gateway migrate` succeeds, and a second `gateway prune` creates no more partitions."""
    fresh = settings | {"GATEWAY_DATABASE_URL": empty_database_url}
    for _ in range(2):
        assert (await command("migrate", **fresh)).code == 0
    assert (await command("prune", "--json", **fresh)).json["log_partitions"] > 0
    assert (await command("prune", "--json", **fresh)).json["log_partitions"] == 0


async def test_up_has_its_data_after_a_restart(reachable_tmp: Path) -> None:
    """A `gateway up` with the data directory of a stopped one has the application and the admin token of that one.

    A second `gateway up` on a directory in use, or on a port in use, exits with 1.
    """
    port = free_ports(5)

    data_dir = ("--data-dir", str(reachable_tmp / "up"))
    ports = ("--port", str(port), "--sim-port", str(port + 1))
    async with run_in_background("up", "--sim", *data_dir, *ports) as up:
        await up.wait_for_output("worker.started")
        assert (await get_json(f"http://127.0.0.1:{port}", "/readyz"))["status"] == "ready"
        application = (
            await command("apps", "create", "Shop", "--subject", "mailto:ops@example.org", "--json", *data_dir)
        ).json
        token = reachable_tmp / "up" / "admin-token"
        assert token.stat().st_mode & 0o777 == 0o600
        second_up = await command("up", *data_dir, "--port", "1")
        assert (second_up.code, "already runs on" in second_up.err) == (1, True), second_up.err
        assert await up.stop(signal.SIGINT) == 0
    listener = socket.create_server(("127.0.0.1", port))
    result = await command("up", *data_dir, "--port", str(port))
    assert (result.code, "cannot listen" in result.err.splitlines()[-1]) == (1, True), result.err
    listener.close()
    async with run_in_background("up", *data_dir, *ports) as up:
        await up.wait_for_output("worker.started")
        page = await get_json(f"http://127.0.0.1:{port}", "/v1/applications", token.read_text().strip())
        assert [entry["id"] for entry in page["items"]] == [application["id"]]
        assert await up.stop() == 0


async def test_sim_command_runs_the_simulator() -> None:
    """`gateway sim` prints the hosts to configure, and fails if its port is in use."""
    port = free_ports(4)
    async with run_in_background("sim", "--port", str(port)) as sim:
        await sim.wait_for_output("GATEWAY_PUSH_HOSTS=")
        assert (await get_json(f"http://127.0.0.1:{port}", "/_sim"))["origins"]["fcm"] == f"http://127.0.0.1:{port}"
        assert (await command("sim", "--port", str(port))).code == 1
        assert await sim.stop(signal.SIGINT) == 0
