"""Invalid input: every route reports the errors with the right 4xx status and stores nothing."""

import json
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from gateway.sim import Vendor
from gateway.web import dispatch
from gateway.web.http.routing import Route
from gateway.web.server import ROUTES
from tests.support.api import ADMIN, ID_PREFIXES, Api, example_body, fill_path
from tests.support.gateway_parts import APP_ORIGIN

UNKNOWN_ID = "0" * 32
CONTENT = {"title": "Storm"}
NOTIFICATION = {"content": CONTENT, "audience": {"everyone": True}}
ROUTES_WITH_BODY = [route for route in ROUTES if route.body is not None]


class RouteCaller:
    """Calls any route with a path and a credential that the route accepts; `path_ids` are the ids in paths."""

    def __init__(self, api: Api, path_ids: dict[str, str]) -> None:
        self.api = api
        self.path_ids = path_ids

    async def send(self, route: Route, body: Any = None, **options: Any) -> Any:
        path = fill_path(route.path, **self.path_ids)
        key = ADMIN if "admin" in route.scopes else "" if route.scopes else None
        return await self.api.call(route.method, path, body, key=key, **options)


@pytest.fixture
async def routes(api: Api) -> RouteCaller:
    """A caller of all routes, with a resource of each kind."""
    segment = await api.call_ok("POST", "/v1/segments", {"name": "all", "audience": {"everyone": True}})
    template = await api.call_ok("POST", "/v1/templates", {"name": "t", "content": {"title": "T"}})
    reminder = await api.call_ok("POST", "/v1/reminders", NOTIFICATION | {"name": "r", "cron": "0 9 * * 1"})
    webhook = await api.call_ok(
        "POST", "/v1/webhooks", {"name": "w", "url": "https://hooks.example.org/", "events": ["delivery.gone"]}
    )
    feed = await api.call_ok("POST", "/v1/feeds", {"name": "f", "url": "https://feeds.example.org/cap"})
    trigger = await api.call_ok("POST", "/v1/triggers", {"name": "t", "event": "e", "content": {"title": "T"}})
    event = await api.call_ok("POST", "/v1/events", {"name": "order.paid"})
    category = await api.call_ok("POST", "/v1/categories", {"name": "offers", "title": "Offers"})
    return RouteCaller(
        api,
        {
            "application_id": api.parts.application["id"],
            "device_id": (await api.register())["id"],
            "segment_id": segment["id"],
            "category_id": category["id"],
            "template_id": template["id"],
            "reminder_id": reminder["id"],
            "webhook_id": webhook["id"],
            "feed_id": feed["id"],
            "trigger_id": trigger["id"],
            "event_id": event["id"],
        },
    )


def valid_body(route: Route, api: Api) -> Any:
    """Return a body that a route accepts."""
    return api.device() if route.path == "/v1/devices" else example_body(route)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"", "empty"),
        (b"{", "line 1"),
        (b'{"a": 1,}', "line 1"),
        (b"\xff\xfe{}", "UTF-8"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "Infinity"),
        (b'{"a": "\xed\xa0\x80"}', "UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[" * 10_000 + b"]" * 10_000, "nested too deeply"),
        (b'{"data": ' * 10_000 + b"1" + b"}" * 10_000, "nested too deeply"),
        (b'{"all": [' * 10_000 + b"1" + b"]}" * 10_000, "nested too deeply"),
        (b'{"data": ' + b"[" * 300 + b"]" * 300 + b"}", "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "4300 digits"),
    ],
    ids=[
        *("empty", "cut off", "trailing comma", "not utf-8", "NaN", "infinity", "a surrogate in utf-8"),
        *("100,000 unclosed lists", "10,000 lists", "10,000 objects", "10,000 audiences", "300 lists"),
        "very long number",
    ],
)
async def test_malformed_json_gets_400(routes: RouteCaller, raw: bytes, expected: str) -> None:
    """Every route responds with 400 to a body that is not JSON; a public route refuses a large one unread."""
    before = await routes.api.rows()
    for route in ROUTES_WITH_BODY:
        response = await routes.send(route, raw=raw)
        if not route.scopes and len(raw) > dispatch.MAX_PUBLIC_BODY_OCTETS:
            assert (response.status, response.body["code"]) == (413, "body_too_large"), route.path
            continue
        assert (response.status, response.body["code"]) == (400, "malformed_body"), route.path
        assert expected in response.body["detail"], route.path
    assert await routes.api.rows() == before


async def test_json_that_is_not_an_object_gets_422(routes: RouteCaller) -> None:
    """Every route responds with 422 to a JSON body that is not an object."""
    before = await routes.api.rows()
    for route in ROUTES_WITH_BODY:
        for value in ([], "text", 7, None, True):
            response = await routes.send(route, raw=json.dumps(value).encode())
            assert (response.status, response.body["code"]) == (422, "invalid"), (route.path, value)
    assert await routes.api.rows() == before


async def test_unknown_fields_are_reported(routes: RouteCaller) -> None:
    """Unknown fields are reported by their JSON pointer."""
    before = await routes.api.rows()
    for route in ROUTES_WITH_BODY:
        response = await routes.send(route, valid_body(route, routes.api) | {"bogus": 1})
        assert (response.status, "/bogus" in response.pointers) == (422, True), (route.path, response.body)
    assert await routes.api.rows() == before


async def test_missing_fields_are_reported(routes: RouteCaller) -> None:
    """Missing required fields are reported by their JSON pointer."""
    before = await routes.api.rows()
    for route in ROUTES_WITH_BODY:
        assert route.body is not None
        required = [name for name, field in route.body.model_fields.items() if field.is_required()]
        if not required:
            continue  # an empty body is valid
        response = await routes.send(route, {})
        assert response.status == 422, route.path
        assert {f"/{name}" for name in required} <= set(response.pointers), (route.path, response.body)
    assert await routes.api.rows() == before


async def test_wrong_types_are_reported(routes: RouteCaller) -> None:
    """Every field of every body is refused with a value of a wrong type."""
    before = await routes.api.rows()
    for route in ROUTES_WITH_BODY:
        body = valid_body(route, routes.api)
        assert route.body is not None
        for name in route.body.model_fields:
            for wrong in ({"no": "such"}, [[["deep"]]], -1.5e300):
                if name in ("attributes", "event", "data") and wrong == {"no": "such"}:
                    continue  # any object is valid for these fields
                response = await routes.send(route, body | {name: wrong})
                assert response.status == 422, (route.path, name, wrong, response.body)
                assert any(pointer.startswith(f"/{name}") for pointer in response.pointers), (route.path, name, wrong)
    assert await routes.api.rows() == before


async def test_values_that_postgres_cannot_store_are_reported(routes: RouteCaller) -> None:
    """Values that Postgres cannot store are reported by their JSON pointer."""
    before = await routes.api.rows()
    for route in ROUTES_WITH_BODY:
        body = valid_body(route, routes.api)
        name = next(iter(body))
        for raw in (rb'"\u0000"', rb'"\ud800"', rb"1e999", b"9" * 4000, rb'{"\u0000": 1}', rb'{"\udfff": 1}'):
            raw_body = json.dumps(body | {name: "HERE"}).encode().replace(b'"HERE"', raw)
            response = await routes.send(route, raw=raw_body)
            assert (response.status, response.pointers[0].startswith(f"/{name}")) == (422, True), (route.path, raw)
    assert await routes.api.rows() == before


@pytest.mark.parametrize("number", ["9223372036854775808", "-9223372036854775809", "1e19", "-1E+300", "9" * 400])
async def test_numbers_beyond_64_bits_are_refused(api: Api, number: str) -> None:
    """Integers beyond 64 bits are refused, because the broker and Postgres do not return them unchanged."""
    before = await api.rows()
    for path, body, pointer in (
        ("/v1/devices", api.device(attributes={"n": "HERE"}), "/attributes/n"),
        ("/v1/notifications", NOTIFICATION | {"content": {"title": "t", "data": {"n": ["HERE"]}}}, "/content/data/n/0"),
        ("/v1/events", {"name": "e", "data": {"n": "HERE"}}, "/data/n"),
        ("/v1/segments", {"name": "s", "audience": {"attribute": "n", "lt": "HERE"}}, "/audience/lt"),
    ):
        response = await api.call("POST", path, raw=json.dumps(body).replace('"HERE"', number).encode())
        assert (response.status, response.pointers) == (422, [pointer]), (path, response.body)
    assert await api.rows() == before


async def test_extreme_numbers_are_returned_unchanged(api: Api) -> None:
    """The largest and smallest allowed numbers are returned as they were sent."""
    numbers = [2**63 - 1, -(2**63), 5e-324, 1e18, 0.1 + 0.2, -0.0]
    sent = await api.call_ok(
        "POST", "/v1/notifications", NOTIFICATION | {"content": CONTENT | {"data": {"n": numbers}}}
    )
    event = await api.call_ok("GET", f"/v1/notifications/{sent['id']}")
    assert event["content"]["data"]["n"] == numbers


async def test_duplicate_field_takes_the_last_value(api: Api) -> None:
    """The last value of a repeated name is used, at every depth, and by the fast parser and the complete one."""
    for suffix in (b"", rb', "x": "\u00e4"', b', "y": 1e3', rb', "z": "\ud83d\ude00"'):
        raw = b'{"name": "%d", "name": "e", "data": {"k": {"a": 0}, "k": {"a": 1, "a": 2%s}}}' % (len(suffix), suffix)
        event = await api.call_ok("POST", "/v1/events", raw=raw)
        event = await api.call_ok("GET", f"/v1/events/{event['id']}")
        assert (event["name"], event["data"]["k"]["a"]) == ("e", 2)
    response = await api.call("POST", "/v1/events", raw=b'{"name": "e", "name": 7}')
    assert (response.status, response.pointers) == (422, ["/name"])


@pytest.mark.parametrize("wild", ["%", "_", "u%", "%'--", "\\", "\\%", "u-_", "*", "' OR 1=1 --", "{u-1}", '"'])
async def test_sql_wildcards_match_only_themselves(api: Api, wild: str) -> None:
    """A character that is special in SQL matches only itself in audiences, filters and paths."""
    first = await api.register(user_id="u-1", attributes={"plan": "pro", "tags": ["a"]}, topics=["weather"])
    second = await api.register(user_id=wild, attributes={"plan": wild, "tags": [wild]})
    for audience in (
        {"user_id": wild},
        {"user_id": [wild]},
        {"attribute": "plan", "eq": wild},
        {"attribute": "plan", "in": [wild, "none"]},
        {"attribute": "tags", "contains": wild},
    ):
        preview = await api.call_ok("POST", "/v1/audiences/preview", {"audience": audience})
        assert [device["id"] for device in preview["sample"]] == [second["id"]], audience
    assert (await api.call_ok("POST", "/v1/audiences/preview", {"audience": {"locale": wild}}))["devices"] == 0
    page = await api.call_ok("GET", f"/v1/devices?{urlencode({'user_id': wild})}")
    assert [device["id"] for device in page["items"]] == [second["id"]]
    assert (await api.call_ok("GET", f"/v1/deliveries?{urlencode({'host': wild})}"))["items"] == []
    await api.call("DELETE", f"/v1/users/{quote(wild, safe='')}")
    assert (await api.call("GET", f"/v1/devices/{second['id']}")).status == 404
    assert (await api.call_ok("GET", f"/v1/devices/{first['id']}"))["user_id"] == "u-1"


async def test_body_of_2_mib_gets_413(routes: RouteCaller) -> None:
    """The status for a body larger than the limit is 413."""
    before = await routes.api.rows()
    raw = json.dumps({"padding": "x" * (2 << 20)}).encode()
    for route in ROUTES_WITH_BODY:
        response = await routes.send(route, raw=raw)
        assert (response.status, response.body["code"]) == (413, "body_too_large"), route.path
    assert await routes.api.rows() == before


async def test_unsupported_content_type_gets_415(routes: RouteCaller) -> None:
    """The status for a body with a content type that the route does not accept is 415."""
    before = await routes.api.rows()
    for route in ROUTES_WITH_BODY:
        raw = json.dumps(valid_body(route, routes.api)).encode()
        response = await routes.send(route, raw=raw, headers={"Content-Type": "text/plain"})
        assert (response.status, response.body["code"]) == (415, "unsupported_media_type"), route.path
    assert await routes.api.rows() == before


async def test_unknown_and_malformed_ids_get_404(api: Api) -> None:
    """The status for an unknown id and for a value that is not an id is 404."""
    for route in ROUTES:
        id_names = [name for name in (*ID_PREFIXES, "delivery_id") if f"{{{name}}}" in route.path]
        if not id_names or 101 in route.responses:  # WebSocket routes check the id after the upgrade
            continue
        all_names = (*ID_PREFIXES, "delivery_id")
        for ids in (
            {},
            dict.fromkeys(all_names, "nonsense"),
            dict.fromkeys(all_names, "%00"),
            dict.fromkeys(all_names, "x" * 1000),
        ):
            response = await api.call(
                route.method,
                fill_path(route.path, **ids),
                example_body(route) if route.body else None,
                key=ADMIN if "admin" in route.scopes else "",
            )
            assert response.status == 404, (route.path, ids, response.body)


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"p256dh": "BA" + "A" * 85}, "/subscription/keys/p256dh"),
        ({"p256dh": "AAAA"}, "/subscription/keys/p256dh"),
        ({"p256dh": "not base64!"}, "/subscription/keys/p256dh"),
        ({"auth": "AAAA"}, "/subscription/keys/auth"),
        ({"auth": 7}, "/subscription/keys/auth"),
        ({"auth": None}, "/subscription/keys/auth"),
    ],
    ids=["off the curve", "too short", "not base64url", "auth too short", "auth a number", "auth null"],
)
async def test_bad_keys_are_reported(api: Api, change: dict[str, Any], pointer: str) -> None:
    """Invalid subscription keys are reported by their JSON pointer."""
    body = api.device()
    body["subscription"]["keys"] |= change
    response = await api.call("POST", "/v1/devices", body, key=api.publishable, origin=APP_ORIGIN)
    assert (response.status, response.pointers) == (422, [pointer])
    assert (await api.rows())["devices"] == 0


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://evil.example/push/1",
        "https://fcm.googleapis.com.evil.example/x",
        "https://evil.example/fcm.googleapis.com/x",
        "http://fcm.googleapis.com/fcm/send/x",
        "https://fcm.googleapis.com:8443/x",
        "https://user@fcm.googleapis.com/x",
        "https://127.0.0.1/x",
        "https://[::1]/x",
        "https://169.254.169.254/latest/meta-data",
        "https://2130706433/x",
        "https://notify.windows.com/x",
        "https://web.push.apple.com",
        "file:///etc/passwd",
        "//fcm.googleapis.com/x",
        "https://fcm.googleapis.com/x y",
        "https://fcm.googleapis.com/" + "x" * 2030,
    ],
)
async def test_endpoints_of_no_push_service_are_refused(api: Api, endpoint: str) -> None:
    """Endpoints at hosts that are no allowed push service are refused."""
    body = api.device()
    body["subscription"]["endpoint"] = endpoint
    response = await api.call("POST", "/v1/devices", body)
    assert (response.status, response.body["code"]) in {(422, "endpoint_not_allowed"), (422, "invalid")}
    assert (await api.rows())["devices"] == 0


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://fcm.googleapis.com/fcm/send/x",
        "https://updates.push.services.mozilla.com/wpush/v2/x",
        "https://web.push.apple.com/x",
        "https://wns2-by3p.notify.windows.com/w/?token=x",
    ],
)
async def test_endpoints_of_four_push_services_are_accepted(api: Api, endpoint: str) -> None:
    """Endpoints of the four push services are accepted."""
    body = api.device(Vendor.FCM)
    body["subscription"]["endpoint"] = endpoint
    assert (await api.call("POST", "/v1/devices", body)).status == 201


# Invalid audiences with the pointer of their error.
INVALID_AUDIENCES: list[tuple[Any, str]] = [
    ({}, "/audience"),
    ("everyone", "/audience"),
    ({"everyone": False}, "/audience/everyone"),
    ({"all": []}, "/audience/all"),
    ({"all": [{"topic": "a"}, {"topic": "b!"}]}, "/audience/all/1/topic"),
    ({"topic": "a", "user_id": "b"}, "/audience"),
    ({"near": {"lat": 91, "lon": 0, "radius_m": 5}}, "/audience/near/lat"),
    ({"within": {"type": "Point", "coordinates": [1, 2]}}, "/audience/within"),
    ({"within": {"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [0, 1], [1, 0], [0, 0]]]}}, "/audience/within"),
    (
        {"within": {"type": "Polygon", "coordinates": [[[179, 0], [-179, 0], [-179, 1], [179, 1], [179, 0]]]}},
        "/audience/within/coordinates/0",
    ),
    ({"attribute": "age"}, "/audience"),
    ({"attribute": "age", "lt": True}, "/audience/lt"),
    ({"device_id": "dev_nonsense"}, "/audience/device_id"),
    ({"segment": "adults"}, "/audience/segment"),
    ({"zone": ["TXC201", "no zone"]}, "/audience/zone/1"),
    ({"zone": 7}, "/audience/zone"),
    ({"not": {"segment": f"seg_{UNKNOWN_ID}"}}, "/audience/not/segment"),
    ({"not": {"bogus": 1}}, "/audience/not"),
]


@pytest.mark.parametrize(("audience", "pointer"), INVALID_AUDIENCES)
async def test_bad_audiences_are_reported_on_every_route(api: Api, audience: Any, pointer: str) -> None:
    """An invalid audience is reported by its JSON pointer wherever a body contains one."""
    before = await api.rows()
    for path, body in (
        ("/v1/notifications", {"content": CONTENT}),
        ("/v1/campaigns", {"name": "n", "content": CONTENT}),
        ("/v1/alerts", {"event": "Storm"}),
        ("/v1/audiences/preview", {}),
        ("/v1/segments", {"name": "n"}),
    ):
        response = await api.call("POST", path, body | {"audience": audience})
        assert response.status == 422, (path, response.body)
        assert any(error_pointer.startswith(pointer) for error_pointer in response.pointers), (path, response.body)
    assert await api.rows() == before


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"content": {}}, "/content/title"),
        ({"content": {"title": ""}}, "/content/title"),
        ({"content": {"title": "t", "url": "javascript:alert(1)"}}, "/content/url"),
        ({"content": {"title": "t", "url": "//evil.example"}}, "/content/url"),
        ({"content": {"title": "t", "icon": "data:image/png;base64,AAAA"}}, "/content/icon"),
        ({"content": {"title": "t", "actions": [{"action": "a"}]}}, "/content/actions/0/title"),
        ({"content": {"title": "t", "data": {"gateway": 1}}}, "/content/data"),
        ({"content": {"title": "t", "app_badge": -1}}, "/content/app_badge"),
        ({"delivery": {"ttl": -1}}, "/delivery/ttl"),
        ({"delivery": {"ttl": 2_419_201}}, "/delivery/ttl"),
        ({"delivery": {"ttl": "60"}}, "/delivery/ttl"),
        ({"delivery": {"urgency": "extreme"}}, "/delivery/urgency"),
        ({"delivery": {"lane": "fast"}}, "/delivery/lane"),
        ({"delivery": {"expires_at": "2020-01-01T00:00:00Z"}}, "/delivery/expires_at"),
        ({"delivery": {"expires_at": "tomorrow"}}, "/delivery/expires_at"),
        ({"schedule": {"at": "2026-12-01T09:00:00"}}, "/schedule/at"),
        ({"schedule": {"at": "9999-12-31T23:59:59-14:00"}}, "/schedule/at"),
        ({"schedule": {"at": 1_800_000_000}}, "/schedule/at"),
        ({"schedule": {}}, "/schedule/at"),
    ],
)
async def test_bad_content_delivery_and_schedule_are_reported(api: Api, change: dict[str, Any], pointer: str) -> None:
    """Invalid content, delivery options and schedules are reported by their JSON pointer."""
    before = await api.rows()
    response = await api.call("POST", "/v1/notifications", NOTIFICATION | change)
    assert (response.status, response.pointers) == (422, [pointer]), response.body
    assert await api.rows() == before


async def test_location_accepts_numbers_only(api: Api) -> None:
    """Text, booleans and null are not accepted as coordinates."""
    device = await api.register()
    for lat in ("48.2", True, None):
        response = await api.call("PUT", f"/v1/devices/{device['id']}/location", {"lat": lat, "lon": 16})
        assert (response.status, response.pointers) == (422, ["/lat"])
    assert (await api.call_ok("GET", f"/v1/devices/{device['id']}"))["location"] is None


async def test_all_errors_are_reported_together(api: Api) -> None:
    """All errors of a body are reported in one response."""
    body: dict[str, Any] = {
        "content": {"title": 7, "url": "nowhere"},
        "delivery": {"ttl": -1, "urgency": "x"},
        "bogus": 1,
    }
    response = await api.call("POST", "/v1/notifications", body)
    expected = {"/content/title", "/content/url", "/delivery/ttl", "/delivery/urgency", "/bogus"}
    assert set(response.pointers) == expected | {"/audience"}
    body["audience"] = {"all": [{"topic": 5}, {"colour": "red"}]}
    response = await api.call("POST", "/v1/notifications", body)
    assert set(response.pointers) == expected | {"/audience/all/0/topic", "/audience/all/1"}


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=1001",
        "limit=ten",
        "cursor=%21%21",
        "cursor=bm9uc2Vuc2U",
        "bogus=1",
        "limit=1&limit=2",
        "cursor=%00",
    ],
)
async def test_bad_query_parameters_are_reported(routes: RouteCaller, query: str) -> None:
    """Invalid query parameters are reported on every paged route."""
    for route in ROUTES:
        if route.query is None or "limit" not in route.query.model_fields:
            continue
        key = ADMIN if "admin" in route.scopes else ""
        response = await routes.api.call("GET", f"{fill_path(route.path, **routes.path_ids)}?{query}", key=key)
        assert (response.status, response.pointers) == (422, [f"/query/{query.partition('=')[0]}"]), (
            route.path,
            response.body,
        )


async def test_bad_log_filters_are_reported(api: Api) -> None:
    """Invalid filters of the delivery log and its stream are reported."""
    for query in (
        "notification_id=x",
        "device_id=ntf_1",
        "outcome=fine",
        "since=yesterday",
        "since=0001-01-01T00:00:00Z",
        "since=0.5",
        "until=1800000000",
        "host=",
        "user_id=",
    ):
        for path in ("/v1/deliveries", "/v1/deliveries/stream"):
            response = await api.call("GET", f"{path}?{query}")
            assert (response.status, response.pointers) == (422, [f"/query/{query.partition('=')[0]}"]), (
                path,
                query,
                response.body,
            )
    for event_id in ("x", "-1", "9" * 30):
        response = await api.call("GET", "/v1/deliveries/stream", headers={"Last-Event-ID": event_id})
        assert (response.status, response.pointers) == (422, ["/header/Last-Event-ID"])


async def test_invalid_receipt_tokens_are_refused(api: Api) -> None:
    """Receipts with an invalid token are refused and not stored."""
    for token in ("x", "A" * 64, "%00", "é" * 20):
        response = await api.call("POST", "/v1/receipts", {"token": token, "event": "displayed"}, key=None)
        assert (response.status, response.body["code"]) == (422, "receipt_invalid")
    assert (await api.rows())["receipts"] == 0


async def test_import_without_ndjson_type_is_refused(api: Api) -> None:
    """The import accepts no content type but NDJSON."""
    response = await api.call("POST", "/v1/devices/import", raw=b"{}", headers={"Content-Type": "application/json"})
    assert (response.status, response.body["code"]) == (415, "unsupported_media_type")


async def test_import_with_an_endless_line_ends_with_a_reason(api: Api) -> None:
    """The import stops at a line over the limit and reports the line number."""
    line = json.dumps(api.device()).encode()
    raw = line + b"\n" + b"x" * 100_000
    response = await api.call("POST", "/v1/devices/import", raw=raw, headers={"Content-Type": "application/x-ndjson"})
    last = json.loads(response.body.strip().rpartition("\n")[2])
    assert (last["done"], last["code"]) == (False, "body_too_large")
    assert "line 2" in last["detail"]
