"""Segments: use in audiences and in other segments, without cycles and without references to removed segments."""

import asyncio
from typing import Any

from tests.support.api import Api

CONTENT = {"title": "Storm"}


async def create_segment(api: Api, name: str, audience: Any) -> str:
    """Create a segment and return its id."""
    segment = await api.call_ok("POST", "/v1/segments", {"name": name, "audience": audience})
    return str(segment["id"])


async def count_devices(api: Api, audience: Any) -> int:
    """Return the number of devices in an audience, by a preview."""
    return int((await api.call_ok("POST", "/v1/audiences/preview", {"audience": audience}))["devices"])


async def test_segment_is_created_read_changed_and_removed(api: Api) -> None:
    """Segments are created, read, listed, changed and removed."""
    id_ = await create_segment(api, "Weather", {"topic": "weather"})
    segment = await api.call_ok("GET", f"/v1/segments/{id_}")
    assert (segment["name"], segment["audience"]) == ("Weather", {"topic": "weather"})
    second = await create_segment(api, "Offers", {"topic": "offers"})
    first_page = await api.call_ok("GET", "/v1/segments?limit=1")
    assert [segment["id"] for segment in first_page["items"]] == [second]
    last_page = await api.call_ok("GET", f"/v1/segments?limit=1&cursor={first_page['next_cursor']}")
    assert [segment["id"] for segment in last_page["items"]] == [id_]
    changed = await api.call_ok("PATCH", f"/v1/segments/{id_}", {"name": "Storms"})
    assert (changed["name"], changed["audience"]) == ("Storms", {"topic": "weather"})
    assert (await api.call("DELETE", f"/v1/segments/{id_}")).status == 204
    assert (await api.call("GET", f"/v1/segments/{id_}")).status == 404


async def test_nested_segments_select_their_devices(api: Api) -> None:
    """An audience selects the devices of its segments, also of segments in segments."""
    for topics in (["weather"], ["weather", "vip"], ["offers", "vip"], []):
        await api.register(topics=topics)
    vip = await create_segment(api, "vip", {"topic": "vip"})
    not_vip = await create_segment(api, "weather, not vip", {"all": [{"topic": "weather"}, {"not": {"segment": vip}}]})
    union = await create_segment(api, "union", {"any": [{"segment": not_vip}, {"topic": "offers"}]})
    assert await count_devices(api, {"segment": vip}) == 2
    assert await count_devices(api, {"segment": not_vip}) == 1
    assert await count_devices(api, {"segment": union}) == 2
    assert await count_devices(api, {"not": {"segment": union}}) == 2


async def test_segment_is_evaluated_when_sending_starts(api: Api) -> None:
    """A notification that waits in the queue uses the audience that its segment has when sending starts."""
    await api.register(topics=["a"])
    device = await api.register(topics=["b"])
    id_ = await create_segment(api, "s", {"topic": "a"})
    sent = await api.call_ok("POST", "/v1/notifications", {"content": CONTENT, "audience": {"segment": id_}})
    await api.call_ok("PATCH", f"/v1/segments/{id_}", {"audience": {"topic": "b"}})
    async with api.parts.run_worker():
        await api.parts.wait_until_done(await api.parts.scalar("SELECT id FROM notifications"))
    [delivery] = (await api.call_ok("GET", f"/v1/deliveries?notification_id={sent['id']}"))["items"]
    assert delivery["device_id"] == device["id"]


async def test_cyclic_segments_are_refused(api: Api) -> None:
    """A change that would close a cycle of one, two or three segments is refused."""
    a = await create_segment(api, "a", {"topic": "a"})
    b = await create_segment(api, "b", {"not": {"segment": a}})
    c = await create_segment(api, "c", {"any": [{"topic": "c"}, {"segment": b}]})
    for inner in (a, b, c):
        response = await api.call(
            "PATCH", f"/v1/segments/{a}", {"audience": {"all": [{"topic": "x"}, {"segment": inner}]}}
        )
        assert (response.status, response.pointers) == (422, ["/audience/all/1/segment"])
    assert (await api.call_ok("GET", f"/v1/segments/{a}"))["audience"] == {"topic": "a"}


async def test_concurrent_changes_cannot_close_a_cycle(api: Api) -> None:
    """Of two concurrent changes that together would close a cycle, one is refused."""
    a, b = await create_segment(api, "a", {"topic": "a"}), await create_segment(api, "b", {"topic": "b"})
    for _ in range(5):
        responses = await asyncio.gather(
            api.call("PATCH", f"/v1/segments/{a}", {"audience": {"segment": b}}),
            api.call("PATCH", f"/v1/segments/{b}", {"audience": {"segment": a}}),
        )
        assert sorted(response.status for response in responses) == [200, 422]
        for id_, name in ((a, "a"), (b, "b")):
            await api.call_ok("PATCH", f"/v1/segments/{id_}", {"audience": {"topic": name}})


async def test_segments_too_large_for_one_query_are_refused(api: Api) -> None:
    """Segments that expand to too many leaves are refused."""
    inner = await create_segment(api, "0", {"any": [{"topic": f"t{i}"} for i in range(100)]})
    refusal = None
    for level in range(1, 8):
        response = await api.call(
            "POST", "/v1/segments", {"name": str(level), "audience": {"any": [{"segment": inner}, {"segment": inner}]}}
        )
        if response.status == 422:
            refusal = response
            break
        inner = response.body["id"]
    assert refusal is not None
    assert refusal.pointers == ["/audience"]
    assert "1600 leaves" in refusal.body["detail"]


async def test_deepest_allowed_filter_runs(api: Api) -> None:
    """The deepest allowed filter runs, and a deeper one is refused."""
    await api.register(topics=["t"])

    def negated(times: int, inner: Any) -> Any:
        return {"not": negated(times - 1, inner)} if times else inner

    inner = await create_segment(api, "inner", negated(14, {"topic": "t"}))
    outer = await create_segment(api, "outer", negated(14, {"segment": inner}))
    assert await count_devices(api, negated(2, {"segment": outer})) == 1
    response = await api.call("POST", "/v1/audiences/preview", {"audience": negated(4, {"segment": outer})})
    assert (response.status, response.pointers) == (422, ["/audience"])
    assert "33 levels" in response.body["detail"]


async def test_segment_in_use_cannot_be_removed(api: Api) -> None:
    """A segment that a segment or a notification uses cannot be removed."""
    inner = await create_segment(api, "inner", {"topic": "a"})
    outer = await create_segment(api, "outer", {"all": [{"topic": "b"}, {"segment": inner}]})
    response = await api.call("DELETE", f"/v1/segments/{inner}")
    assert (response.status, "'outer'" in response.body["detail"]) == (409, True)
    sent = await api.call_ok("POST", "/v1/notifications", {"content": CONTENT, "audience": {"segment": outer}})
    response = await api.call("DELETE", f"/v1/segments/{outer}")
    assert (response.status, sent["id"] in response.body["detail"]) == (409, True)
    await api.call_ok("POST", f"/v1/notifications/{sent['id']}/cancel")
    for id_ in (outer, inner):
        assert (await api.call("DELETE", f"/v1/segments/{id_}")).status == 204


async def test_segment_names_are_unique(api: Api) -> None:
    """Two segments cannot have one name."""
    await create_segment(api, "a", {"topic": "a"})
    other = await create_segment(api, "b", {"topic": "b"})
    for method, path in (("POST", "/v1/segments"), ("PATCH", f"/v1/segments/{other}")):
        response = await api.call(method, path, {"name": "a", "audience": {"topic": "c"}})
        assert (response.status, response.body["code"]) == (409, "conflict")
    assert (await api.call_ok("GET", f"/v1/segments/{other}"))["audience"] == {"topic": "b"}
