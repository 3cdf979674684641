"""The audit log: actor, action, target and time, written in the transaction of the action, without secrets."""

from datetime import timedelta
from typing import Any

from sqlalchemy import text

from gateway.web.server import ROUTES
from gateway.worker import maintenance
from gateway.worker.maintenance.retention_policy import RetentionPolicy
from tests.support.api import ADMIN, Api

# A webhook URL with a secret, which no audit entry may contain.
SECRET_URL = "https://hooks.example.org/in?token=a-secret-token"
UNAUDITED_ROUTES = {
    "POST /v1/devices/import",
    "POST /v1/devices",
    "PATCH /v1/devices/{device_id}",
    "DELETE /v1/devices/{device_id}",
    "PUT /v1/devices/{device_id}/location",
    "DELETE /v1/devices/{device_id}/location",
    "PUT /v1/devices/{device_id}/topics/{topic}",
    "DELETE /v1/devices/{device_id}/topics/{topic}",
    "PUT /v1/devices/{device_id}/inbox/{delivery_id}/read",
    "POST /v1/devices/{device_id}/inbox/read",
    "PATCH /v1/devices/{device_id}/preferences",
    "POST /v1/templates/preview",
    "POST /v1/audiences/preview",
    "POST /v1/notifications",
    "POST /v1/topics/{topic}/publish",
    "POST /v1/campaigns",
    "POST /v1/alerts",
    "POST /v1/receipts",
    "POST /v1/session",
    "DELETE /v1/session",
    "POST /v1/events",
    "POST /v1/events/batch",
}


async def list_entries(api: Api, query: str = "", key: str = ADMIN) -> list[Any]:
    """Return the audit entries that the operator reads, newest first."""
    entries: list[Any] = (await api.call_ok("GET", f"/v1/audit?{query}", key=key))["items"]
    return entries


def app_path(api: Api) -> str:
    """Return the API path of the application."""
    return f"/v1/applications/{api.parts.application['id']}"


def test_only_device_and_sending_routes_are_not_audited() -> None:
    """Every route that writes is audited, except those for devices, events and sending."""
    unaudited = {f"{route.method} {route.path}" for route in ROUTES if route.method != "GET" and route.audit is None}
    assert unaudited == UNAUDITED_ROUTES
    actions = {f"{route.method} {route.path}": route.audit for route in ROUTES}
    assert actions["POST /v1/applications/{application_id}/keys"] == "keys.create"
    assert actions["POST /v1/applications/{application_id}/vapid/rotate"] == "vapid.rotate"
    assert actions["POST /v1/webhooks/{webhook_id}/rotate"] == "webhooks.rotate"
    assert actions["DELETE /v1/users/{user_id}"] == "users.remove"
    assert actions["PUT /v1/alert-settings"] == "alert-settings.replace"
    assert all(action is None for name, action in actions.items() if name.startswith("GET"))


async def test_audit_entries_are_newest_first(api: Api) -> None:
    """Entries name actor, action, target, details and time, newest first."""
    request = {"name": "reports", "scopes": ["manage"]}
    key = await api.call_ok("POST", f"{app_path(api)}/keys", request, key=ADMIN)
    segment = await api.call_ok("POST", "/v1/segments", {"name": "s", "audience": {"topic": "t"}}, key=key["key"])
    await api.call_ok("DELETE", f"/v1/segments/{segment['id']}", key=key["key"])
    entries = await list_entries(api)
    segment_removal, segment_creation, key_creation = entries
    assert key_creation["details"] == request
    assert segment_creation["details"] == {"name": None, "audience": None}
    described = [(entry["actor"], entry["action"], entry["target"]) for entry in reversed(entries)]
    assert described == [
        ("admin", "keys.create", key["id"]),
        (key["id"], "segments.create", segment["id"]),
        (key["id"], "segments.remove", segment["id"]),
    ]
    assert {entry["application_id"] for entry in entries} == {api.parts.application["id"]}
    assert segment_removal["at"] > key_creation["at"]


async def test_application_reads_only_its_own_entries(api: Api) -> None:
    """An application reads its own entries; the operator reads all or those of one application."""
    request = {"name": "other", "subject": "mailto:ops@example.org"}
    other_application = await api.call_ok("POST", "/v1/applications", request, key=ADMIN)
    await api.call_ok("PATCH", app_path(api), {"name": "Weather 2"}, key=ADMIN)
    assert [entry["action"] for entry in await list_entries(api)] == ["applications.change", "applications.create"]
    assert [entry["action"] for entry in await list_entries(api, key=api.secret)] == ["applications.change"]
    [entry] = await list_entries(api, f"application_id={other_application['id']}")
    assert (entry["target"], entry["application_id"]) == (other_application["id"], other_application["id"])
    assert await list_entries(api, f"application_id={other_application['id']}", key=api.secret) == []
    assert (await api.call("GET", "/v1/audit?application_id=nonsense", key=ADMIN)).status == 422


async def test_entries_are_paged_and_filtered_by_action(api: Api) -> None:
    """The audit log is paged and filtered by action."""
    categories = [
        await api.call_ok("POST", "/v1/categories", {"name": f"c{number}", "title": "C"}) for number in range(5)
    ]
    await api.call_ok("PATCH", app_path(api), {"name": "W"}, key=ADMIN)
    first_page = await api.call_ok("GET", "/v1/audit?action=categories.create&limit=3")
    cursor = first_page["next_cursor"]
    second_page = await api.call_ok("GET", f"/v1/audit?action=categories.create&limit=3&cursor={cursor}")
    targets = [item["target"] for item in first_page["items"] + second_page["items"]]
    assert (targets, second_page["next_cursor"]) == ([item["id"] for item in reversed(categories)], None)


async def test_refused_and_replayed_requests_are_not_audited(api: Api) -> None:
    """The audit log has no entry for a refused request, and one entry for a request that is replayed."""
    request = {"name": "s", "audience": {"topic": "t"}}
    once = {"Idempotency-Key": "one"}
    for _ in range(2):
        assert (await api.call("POST", "/v1/segments", request, headers=once)).status == 201
    assert (await api.call("POST", "/v1/segments", {"name": "s"})).status == 422
    assert (await api.call("DELETE", f"/v1/segments/seg_{'0' * 32}")).status == 404
    assert (await api.call("POST", f"{app_path(api)}/keys", {"name": "k", "scopes": ["read"]})).status == 403
    assert (await api.call("PATCH", app_path(api), {}, key=ADMIN)).status == 200
    assert [entry["action"] for entry in await list_entries(api)] == ["segments.create"]


async def test_action_that_cannot_be_audited_is_not_done(api: Api) -> None:
    """The entry is written in the transaction of the action, so that both commit or neither does."""
    async with api.parts.engine.begin() as conn:
        await conn.execute(text("ALTER TABLE audit ADD CONSTRAINT none CHECK (act <> 'keys.create')"))
    before = await api.rows()
    response = await api.call("POST", f"{app_path(api)}/keys", {"name": "k", "scopes": ["read"]}, key=ADMIN)
    assert response.status == 500
    assert await api.rows() == before


async def test_entries_contain_no_secret_or_user_id(api: Api) -> None:
    """Entries contain no secret and no user id."""
    key = await api.call_ok("POST", f"{app_path(api)}/keys", {"name": "k", "scopes": ["read"]}, key=ADMIN)
    changed = await api.call_ok("PATCH", app_path(api), {"require_identity": True}, key=ADMIN)
    webhook = await api.call_ok("POST", "/v1/webhooks", {"name": "w", "url": SECRET_URL, "events": ["*"]})
    rotated = await api.call_ok("POST", f"/v1/webhooks/{webhook['id']}/rotate", {"keep_old_hours": 1})
    await api.call_ok("DELETE", "/v1/users/someone@example.org")
    stored = await api.parts.scalar("SELECT string_agg(audit::text, ' ') FROM audit")
    assert "users.remove" in stored
    for secret in (
        key["key"],
        changed["identity_secret"],
        webhook["secret"],
        rotated["secret"],
        SECRET_URL,
        "someone",
    ):
        assert secret not in stored


async def test_entries_are_deleted_after_400_days(api: Api) -> None:
    """Entries are deleted after 400 days."""
    old, recent = [await api.call_ok("POST", "/v1/categories", {"name": name, "title": "C"}) for name in ("old", "new")]
    async with api.parts.engine.begin() as conn:
        move_to_past = "UPDATE audit SET at = now() - CAST(:age AS interval) WHERE target = :target"
        await conn.execute(text(move_to_past), {"age": timedelta(days=401), "target": old["id"]})
    assert (await maintenance.run_once(api.parts.engine, RetentionPolicy()))["audit_log"] == 1
    assert [entry["target"] for entry in await list_entries(api)] == [recent["id"]]


async def test_old_vapid_key_still_registers_after_rotation(api: Api) -> None:
    """After a rotation, pages get the new VAPID key, and devices with the old VAPID key can still register."""
    body = api.device()
    rotated = await api.call_ok("POST", f"{app_path(api)}/vapid/rotate", key=ADMIN)
    assert rotated != {"vapid_public_key": api.parts.application["vapid_public_key"]}
    assert await api.call_ok("GET", "/v1/vapid-public-key") == rotated
    with_old_key = body | {"vapid_public_key": api.parts.application["vapid_public_key"]}
    assert (await api.call("POST", "/v1/devices", with_old_key)).status == 201
    assert (await api.call("POST", f"/v1/applications/app_{'0' * 32}/vapid/rotate", key=ADMIN)).status == 404
