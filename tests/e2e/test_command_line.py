"""The `gateway` command: what it prints, how it ends, and that roles apart do together what `up` does alone."""

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


async def test_every_command_explains_itself() -> None:
    everything = await command("--help")
    assert everything.code == 0
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
        assert name in everything.out
        said = await command(name, "--help")
        assert (said.code, "Usage:" in said.out) == (0, True), name


def test_help_and_completion_load_nothing_that_only_commands_need() -> None:
    code = "import sys, typer.main, gateway.cli; typer.main.get_command(gateway.cli.cli); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not set(loaded) & {"aiohttp", "sqlalchemy", "pydantic", "rich", "uvloop", "structlog", "gateway.app"}


def test_installed_completion_knows_commands_options_and_values(tmp_path: Path) -> None:
    complete = """
        gateway --install-completion >&2 && source ~/.bashrc
        try() { COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)); _gateway_completion gateway; echo "${COMPREPLY[@]}"; }
        try gateway del; try gateway deliveries li; try gateway deliveries list --out; try gateway send --lane ""
    """
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    said = subprocess.run(
        ["bash", "-c", complete], capture_output=True, text=True, env={"HOME": str(tmp_path), "PATH": path}, check=False
    )
    assert said.stdout.splitlines() == ["deliveries", "list", "--outcome", "urgent normal bulk"], said.stderr


async def test_what_was_accepted_is_paused_resumed_and_cancelled(settings: dict[str, str]) -> None:
    made = ("apps", "create", "Shop", "--subject", "mailto:ops@example.org", "--origin", "https://shop.example.org")
    await command(*made, **settings)
    at = ("--at", "2027-07-01T09:00:00", "--timezone", "device")
    sent = (await command("send", "--app", "Shop", "--title", "Sale", "--everyone", *at, "--json", **settings)).json
    assert sent["schedule"] == {"at": "2027-07-01T09:00:00", "timezone": "device"}
    for order, status in (("pause", "paused"), ("resume", "scheduled"), ("cancel", "cancelled")):
        assert (await command("campaign", order, sent["id"], **settings)).out.strip() == status
    noted = (await command("audit", "--app", "Shop", "--json", **settings)).json["items"]
    assert [one["action"] for one in reversed(noted)] == [
        "applications.create",
        "notifications.pause",
        "notifications.resume",
        "notifications.cancel",
    ]
    assert {one["actor"] for one in noted} == {"command line"}
    refused = await command("campaign", "resume", sent["id"], **settings)
    assert (refused.code, refused.err) == (1, "gateway: the notification was cancelled\n")


async def test_wrong_usage_is_answered_2_and_failure_1_with_one_line(settings: dict[str, str]) -> None:
    for arguments in (["nonsense"], ["apps", "create"], ["send", "--app", "x", "--title", "t"], ["up", "--port", "x"]):
        said = await command(*arguments, **settings)
        assert said.code == 2, arguments
        assert "Traceback" not in said.err
    asked = ["deliveries", "list"]
    for given in ({"GATEWAY_SERVER": "localhost:8080", "GATEWAY_KEY": "sk_x"}, {"GATEWAY_KEY": "sk_x"}):
        assert (await command(*asked, **given)).code == 2, given
    assert "Did you mean 'send'?" in (await command("sned")).err
    unreachable = settings | {"GATEWAY_DATABASE_URL": "postgresql://nobody:secret@127.0.0.1:1/none"}
    for arguments, given in (
        (["apps", "list"], unreachable),
        (["migrate"], unreachable),
        (["apps", "list"], {"GATEWAY_DATA_DIR": "/nonexistent/gateway"}),
        (asked, {"GATEWAY_SERVER": "http://127.0.0.1:1", "GATEWAY_KEY": "sk_x"}),
        (["apps", "list"], settings | {"GATEWAY_PORT": "high"}),
        (["apps", "list"], settings | {"GATEWAY_MASTER_KEY": "short"}),
        (["apps", "create", "x", "--subject", "nobody", "--origin", "nowhere"], settings),
        (["send", "--app", "nothing", "--title", "t", "--everyone"], settings),
        (["campaign", "status", "nonsense"], settings),
    ):
        said = await command(*arguments, **given)
        assert said.code == 1, (arguments, said)
        assert said.err.startswith("gateway: "), (arguments, said.err)
        assert said.err.count("\n") == 1, (arguments, said.err)
        assert "secret" not in said.err


async def test_roles_apart_do_what_up_does_alone(settings: dict[str, str], tmp_path: Path) -> None:
    port = free_ports(1)
    base = f"http://127.0.0.1:{port}"
    async with Sim() as sim:
        settings |= {"GATEWAY_PUSH_HOSTS": ",".join(sim.origins.values()), "GATEWAY_PUBLIC_URL": base}
        made = (
            await command(
                *("apps", "create", "Weather", "--subject", "mailto:ops@example.org"),
                *("--origin", "https://app.example.org", "--json"),
                **settings,
            )
        ).json
        subscribers = sim.subscribe_many(Vendor.APPLE, 3, decode_base64url(made["vapid_public_key"]))
        async with (
            run_in_background("serve", "--port", str(port), **settings) as serve,
            run_in_background("work", "--lanes", "urgent,normal", **settings) as work,
        ):
            await serve.wait_for_output("web.listening")
            await work.wait_for_output("worker.started")
            async with aiohttp.ClientSession(base) as http:
                for subscriber in subscribers:
                    headers = {"Authorization": f"Bearer {made['secret_key']}"}
                    body = {"subscription": subscriber.to_json(), "topics": ["weather"], "user_id": "u-1"}
                    async with http.post("/v1/devices", json=body, headers=headers) as answer:
                        assert answer.status == 201
            away = {"GATEWAY_SERVER": base, "GATEWAY_KEY": made["secret_key"]}
            async with run_on_terminal("deliveries", "tail", **away) as tail:
                await tail.wait_for_output("Ctrl-C ends it")
                storm = ("send", "--title", "Storm", "--body", "Stay inside", "--topic", "weather")
                sent = (await command(*storm, "--json", **away)).json
                await tail.wait_for_output("\x1b[1;32maccepted", times=3)
                assert await tail.stop(signal.SIGINT) == 0
            watched = await command("campaign", "status", sent["id"], "--watch", "--json", **away)
            assert "done 3 of 3" in watched.err
            done = watched.json
            assert (done["status"], done["progress"]["accepted"]) == ("done", 3)
            alert = tmp_path / "alert.json"
            alert.write_text(json.dumps({"event": "Storm", "severity": "Severe", "audience": {"user_id": "u-1"}}))
            raised = (await command("alert", str(alert), "--json", **away)).json
            assert raised["delivery"]["lane"] == "urgent"
            await command("campaign", "status", raised["id"], "--watch", **settings)
            listed = (await command("deliveries", "list", "--app", "Weather", "--json", **settings)).json
            assert len(listed["items"]) == 6
            for_people = (await command("deliveries", "list", **away)).out
            assert (for_people.count("accepted  201"), "\x1b" in for_people) == (6, False)
            stranger = await command("deliveries", "list", **(away | {"GATEWAY_KEY": "sk_wrong"}))
            assert (stranger.code, "GATEWAY_KEY" in stranger.err) == (1, True)
            assert [len(subscriber.messages) for subscriber in subscribers] == [2, 2, 2]
            assert (await get_json(base, "/v1/notifications", made["secret_key"]))["items"][0]["id"] == raised["id"]
            assert await work.stop() == 0
            assert await serve.stop() == 0


async def test_an_operator_elsewhere_makes_applications_and_keys(database_url: str) -> None:
    async with gateway(database_url) as parts, serve_api(parts) as api:
        await keys_come_and_go({"GATEWAY_SERVER": api.origin, "GATEWAY_KEY": ADMIN})
        away = {"GATEWAY_SERVER": api.origin, "GATEWAY_KEY": api.secret}
        refused = await command("apps", "list", **away)
        assert (refused.code, "this needs admin" in refused.err) == (1, True)


async def keys_come_and_go(settings: dict[str, str]) -> None:
    app = ("--app", "Shop")
    made = await command("apps", "create", "Shop", "--subject", "mailto:ops@example.org", **settings)
    assert made.code == 0
    assert "sk_" in made.out
    key = (await command("keys", "create", *app, "--scope", "read", "--json", **settings)).json
    assert key["scopes"] == ["read"]
    keys = (await command("keys", "list", *app, "--json", **settings)).json["items"]
    assert key["id"] in [one["id"] for one in keys]
    assert key["key"] not in json.dumps(keys)
    assert (await command("keys", "remove", key["id"], *app, **settings)).code == 0
    assert (await command("keys", "remove", key["id"], *app, **settings)).code == 1
    assert (await command("keys", "create", *app, "--scope", "everything", **settings)).code == 2
    listed = (await command("apps", "list", "--json", **settings)).json
    assert [one["name"] for one in listed["items"]] == ["Weather", "Shop"]


async def test_the_doctor_finds_what_is_wrong(settings: dict[str, str], empty_database_url: str) -> None:
    await command("apps", "create", "Shop", "--subject", "mailto:ops@example.org", **settings)
    sound = await command("doctor", "--offline", "--json", **settings)
    assert all(check["ok"] for check in sound.json), sound.out
    for change, check in (
        ({"GATEWAY_PROT": "80"}, "settings"),
        ({"GATEWAY_MASTER_KEY": "another master key that is long enough"}, "master key"),
        ({"GATEWAY_DATABASE_URL": empty_database_url}, "migrations"),
        ({"GATEWAY_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}, "database"),
    ):
        said = await command("doctor", "--offline", "--json", **(settings | change))
        assert said.code == 1, change
        assert [one["check"] for one in json.loads(said.out) if not one["ok"]] == [check], said.out


@pytest.mark.parametrize("role", ["serve", "work", "up"])
async def test_nothing_starts_with_a_master_key_that_does_not_fit_or_on_an_old_database(
    settings: dict[str, str], empty_database_url: str, role: str
) -> None:
    await command("apps", "create", "Shop", "--subject", "mailto:ops@example.org", **settings)
    for change, words in (
        ({"GATEWAY_MASTER_KEY": "another master key that is long enough"}, "the master key does not open"),
        ({"GATEWAY_DATABASE_URL": empty_database_url}, "run `gateway migrate`"),
    ):
        if role == "up" and "GATEWAY_DATABASE_URL" in change:
            continue  # it migrates by itself
        said = await command(role, **settings | change | {"GATEWAY_PORT": str(free_ports(1))})
        assert (said.code, words in said.err.splitlines()[-1]) == (1, True), said.err


async def test_settings_are_listed_without_secrets(settings: dict[str, str]) -> None:
    said = await command("settings", "--json", **settings)
    values = {one["name"]: one["value"] for one in said.json}
    assert values["GATEWAY_PORT"] == "8080"
    assert values["GATEWAY_MASTER_KEY"] == "set"
    assert all(one["description"] for one in said.json)
    assert MASTER_KEY not in said.out
    assert ADMIN_TOKEN not in said.out


async def test_migrate_and_prune_can_be_run_at_any_time(settings: dict[str, str], empty_database_url: str) -> None:
    fresh = settings | {"GATEWAY_DATABASE_URL": empty_database_url}
    for _ in range(2):
        assert (await command("migrate", **fresh)).code == 0
    assert (await command("prune", "--json", **fresh)).json["partitions"] > 0
    assert (await command("prune", "--json", **fresh)).json["partitions"] == 0


async def test_up_starts_on_nothing_and_starts_again_with_everything_still_there(reachable_tmp: Path) -> None:
    port = free_ports(5)
    where = ("--data-dir", str(reachable_tmp / "up"))
    ports = ("--port", str(port), "--sim-port", str(port + 1))
    async with run_in_background("up", "--sim", *where, *ports) as up:
        await up.wait_for_output("worker.started")
        assert (await get_json(f"http://127.0.0.1:{port}", "/readyz"))["status"] == "ready"
        made = (await command("apps", "create", "Shop", "--subject", "mailto:ops@example.org", "--json", *where)).json
        token = reachable_tmp / "up" / "admin-token"
        assert token.stat().st_mode & 0o777 == 0o600
        second = await command("up", *where, "--port", "1")
        assert (second.code, "already runs on" in second.err) == (1, True), second.err
        assert await up.stop(signal.SIGINT) == 0
    taken = socket.create_server(("127.0.0.1", port))
    busy = await command("up", *where, "--port", str(port))
    assert (busy.code, "cannot listen" in busy.err.splitlines()[-1]) == (1, True), busy.err
    taken.close()
    async with run_in_background("up", *where, *ports) as up:
        await up.wait_for_output("worker.started")
        listed = await get_json(f"http://127.0.0.1:{port}", "/v1/applications", token.read_text().strip())
        assert [one["id"] for one in listed["items"]] == [made["id"]]
        assert await up.stop() == 0


async def test_the_simulator_runs_alone() -> None:
    port = free_ports(4)
    async with run_in_background("sim", "--port", str(port)) as sim:
        await sim.wait_for_output("GATEWAY_PUSH_HOSTS=")
        assert (await get_json(f"http://127.0.0.1:{port}", "/_sim"))["origins"]["fcm"] == f"http://127.0.0.1:{port}"
        assert (await command("sim", "--port", str(port))).code == 1
        assert await sim.stop(signal.SIGINT) == 0
