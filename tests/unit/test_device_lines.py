"""Lines of an import are never read otherwise than the model reads them."""

import json
from base64 import urlsafe_b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.device import Registration
from gateway.domain.errors import GatewayError, MalformedBody, ValidationError
from gateway.web.api import device_import_decoder
from gateway.web.api.devices import NewDevice
from gateway.web.http.parsing import read_body

KEYS = {"p256dh": "B" * 87, "auth": "a" * 22}
SUBSCRIPTION = {"endpoint": "https://fcm.googleapis.com/fcm/send/1", "expirationTime": None, "keys": KEYS}
SOUND: dict[str, Any] = {
    "subscription": SUBSCRIPTION,
    "user_id": "ada",
    "user_hash": "ab",
    "client": {"platform": "ios", "browser": "Safari", "locale": "sv", "timezone": "Asia/Tokyo", "app_version": "1"},
    "attributes": {"plan": "gold", "age": 31, "score": 1.5, "paid": True, "tags": ["a", 1, 0.5, False], "none": []},
    "topics": ["weather", "offers", "weather"],
    "zones": ["DE131", "TXC201/x"],
    "muted": ["offers"],
    "location": {"lat": 59, "lon": 18.1, "accuracy_m": 30},
    "vapid_public_key": "B" * 87,
}
PATHS = (
    *((name,) for name in SOUND),
    *(("subscription", name) for name in SUBSCRIPTION),
    *(("subscription", "keys", name) for name in KEYS),
    *((of, name) for of in ("client", "attributes", "location") for name in SOUND[of]),
    *((of, at) for of in ("topics", "zones", "muted") for at in (0, -1)),
    *(("attributes", "tags", at) for at in range(4)),
    *(("unknown",), ("client", "unknown"), ("subscription", "keys", "unknown"), ("location", "unknown")),
)
BORDERS = [
    *(None, True, False, "", "\0", "\n", " ", "ä", "é", "weather\n", "a b", "a" * 22, "B" * 87, "B" * 86 + "=", "++"),
    *(urlsafe_b64encode(bytes([n]) * size).decode().rstrip("=") for n in (0, 62, 255) for size in (16, 65)),
    *("B" * 86 + one for one in "+/=-_*\né "),
    *("x" * most for length in (64, 100, 128, 255, 1000, 2048) for most in (length, length + 1)),
    *(0, -0.0, 1, -1, 90, 90.0001, -90, 180, 181, -180.5, 50_000_000, 50_000_000.5, 1e300, 1e-320),
    *(2**63, 2**63 - 1, -(2**63), -(2**63) - 1, 2.0**63, -(2.0**63), 2**64, 10**30, float("inf"), float("nan")),
    *([], {}, [[]], [{}], {"a": []}, {"": 1}, {"a" * 100: 1}, {"a" * 101: 1}, {"\0": 1}, ["a", "a"], ["a", None]),
    *(["t"] * 100, ["t"] * 101, {str(n): n for n in range(100)}, {str(n): n for n in range(101)}),
]


def came_to(raw: bytes, read: Any) -> Any:
    try:
        return read(raw)
    except ValidationError as refusal:
        return ValidationError, refusal.errors
    except GatewayError as refusal:
        return type(refusal), refusal.detail


def by_the_model(raw: bytes) -> Registration:
    return read_body(NewDevice, raw).value()


def same(raw: bytes) -> None:
    assert repr(came_to(raw, device_import_decoder.read_line)) == repr(came_to(raw, by_the_model)), raw


def changed(path: tuple[str | int, ...], value: Any) -> Any:
    whole = json.loads(json.dumps(SOUND))
    at = whole
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    return whole


def test_a_sound_line_needs_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(device_import_decoder, "read_body")
    raw = json.dumps(SOUND).encode()
    assert device_import_decoder.read_line(raw) == by_the_model(raw)
    least = json.dumps({"subscription": {"endpoint": "https://fcm.googleapis.com/1", "keys": KEYS}}).encode()
    assert device_import_decoder.read_line(least) == by_the_model(least)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: ".".join(map(str, path)))
def test_any_value_anywhere_is_read_as_the_model_reads_it(path: tuple[str | int, ...]) -> None:
    for value in BORDERS:
        for ascii_ in (True, False):
            same(json.dumps(changed(path, value), ensure_ascii=ascii_).encode())


@given(
    path=st.sampled_from(PATHS),
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=4,
    ),
    ascii_=st.booleans(),
)
def test_made_up_values_are_read_as_the_model_reads_them(path: tuple[str | int, ...], value: Any, ascii_: bool) -> None:
    same(json.dumps(changed(path, value), ensure_ascii=ascii_).encode("utf-8", "surrogatepass"))


@given(data=st.data())
def test_broken_lines_are_refused_as_the_model_refuses_them(data: st.DataObject) -> None:
    raw = bytearray(json.dumps(SOUND).encode())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    same(bytes(raw))


@pytest.mark.parametrize(
    "raw", [b"", b" ", b"null", b"[]", b"{}", b'{"a":1}', b"[" * 100_000, b"\xef\xbb\xbf{}", b"{} {}"]
)
def test_what_is_no_registration_at_all_is_refused(raw: bytes) -> None:
    same(raw)
    assert came_to(raw, device_import_decoder.read_line)[0] in (ValidationError, MalformedBody)


@pytest.mark.parametrize(
    "said",
    [
        *('"user_id":"a","user_id":"b"', '"attributes":{"a":1,"a":2}', '"attributes":{"a":1e999}'),
        *('"user_id":"\\u0061"', '"user_id":"\\ud83d"', '"user_id":"\\ud83d\\ude00"', '"user_id":"\\\\u0000"'),
        *('"attributes":{"a":"\\u0000"}', '"attributes":{"\\u0000":1}', '"attributes":{"a":-0}'),
        *('"attributes":{"a":1e2}', '"attributes":{"a":01}'),
    ],
)
def test_what_json_allows_to_be_written_in_many_ways_is_read_alike(said: str) -> None:
    sound = json.dumps({"subscription": SUBSCRIPTION})
    same(f"{sound[:-1]},{said}}}".encode())
