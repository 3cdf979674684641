"""The fast decoder of import lines returns the same registration or error as the request model NewDevice."""

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
VALID_LINE: dict[str, Any] = {
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
    "device_token": "dt_a",
}
PATHS = (
    *((name,) for name in VALID_LINE),
    *(("subscription", name) for name in SUBSCRIPTION),
    *(("subscription", "keys", name) for name in KEYS),
    *((field, name) for field in ("client", "attributes", "location") for name in VALID_LINE[field]),
    *((field, index) for field in ("topics", "zones", "muted") for index in (0, -1)),
    *(("attributes", "tags", index) for index in range(4)),
    *(("unknown",), ("client", "unknown"), ("subscription", "keys", "unknown"), ("location", "unknown")),
)
BOUNDARY_VALUES = [
    *(None, True, False, "", "\0", "\n", " ", "ä", "é", "weather\n", "a b", "a" * 22, "B" * 87, "B" * 86 + "=", "++"),
    *(urlsafe_b64encode(bytes([n]) * size).decode().rstrip("=") for n in (0, 62, 255) for size in (16, 65)),
    *("B" * 86 + character for character in "+/=-_*\né "),
    *("x" * size for length in (64, 100, 128, 255, 1000, 2048) for size in (length, length + 1)),
    *(0, -0.0, 1, -1, 90, 90.0001, -90, 180, 181, -180.5, 50_000_000, 50_000_000.5, 1e300, 1e-320),
    *(2**63, 2**63 - 1, -(2**63), -(2**63) - 1, 2.0**63, -(2.0**63), 2**64, 10**30, float("inf"), float("nan")),
    *([], {}, [[]], [{}], {"a": []}, {"": 1}, {"a" * 100: 1}, {"a" * 101: 1}, {"\0": 1}, ["a", "a"], ["a", None]),
    *(["t"] * 100, ["t"] * 101, {str(n): n for n in range(100)}, {str(n): n for n in range(101)}),
]


def result_of(raw: bytes, read: Any) -> Any:
    """Return the result of a decoder, or the type and details of its error."""
    try:
        return read(raw)
    except ValidationError as error:
        return ValidationError, error.errors
    except GatewayError as error:
        return type(error), error.detail


def decode_with_model(raw: bytes) -> Registration:
    """Decode a line with the request model."""
    return read_body(NewDevice, raw).value()


def check_agreement(raw: bytes) -> None:
    """Check that the fast decoder and the request model have the same result."""
    assert repr(result_of(raw, device_import_decoder.read_line)) == repr(result_of(raw, decode_with_model)), raw


def with_value(path: tuple[str | int, ...], value: Any) -> Any:
    """Return VALID_LINE with `value` at `path`."""
    line = json.loads(json.dumps(VALID_LINE))
    parent = line
    for step in path[:-1]:
        parent = parent[step]
    parent[path[-1]] = value
    return line


def test_valid_line_is_decoded_without_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fast path decodes a valid line without calling the model's parser."""
    monkeypatch.delattr(device_import_decoder, "read_body")
    raw = json.dumps(VALID_LINE).encode()
    assert device_import_decoder.read_line(raw) == decode_with_model(raw)
    minimal = json.dumps({"subscription": {"endpoint": "https://fcm.googleapis.com/1", "keys": KEYS}}).encode()
    assert device_import_decoder.read_line(minimal) == decode_with_model(minimal)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: ".".join(map(str, path)))
def test_any_value_at_any_path_gives_the_model_s_result(path: tuple[str | int, ...]) -> None:
    """Each boundary value is tried at each path of a registration."""
    for value in BOUNDARY_VALUES:
        for ascii_ in (True, False):
            check_agreement(json.dumps(with_value(path, value), ensure_ascii=ascii_).encode())


@given(
    path=st.sampled_from(PATHS),
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=4,
    ),
    ascii_=st.booleans(),
)
def test_generated_values_give_the_model_s_result(path: tuple[str | int, ...], value: Any, ascii_: bool) -> None:
    """Generated JSON values are tried at every path of a registration."""
    check_agreement(json.dumps(with_value(path, value), ensure_ascii=ascii_).encode("utf-8", "surrogatepass"))


@given(data=st.data())
def test_corrupted_lines_give_the_model_s_result(data: st.DataObject) -> None:
    """Up to three octets of a valid line are replaced by other octets."""
    raw = bytearray(json.dumps(VALID_LINE).encode())
    start = data.draw(st.integers(0, len(raw) - 1))
    raw[start : start + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    check_agreement(bytes(raw))


@pytest.mark.parametrize(
    "raw", [b"", b" ", b"null", b"[]", b"{}", b'{"a":1}', b"[" * 100_000, b"\xef\xbb\xbf{}", b"{} {}"]
)
def test_line_that_is_no_registration_is_refused(raw: bytes) -> None:
    """The fast decoder raises ValidationError or MalformedBody, with the same details as the request model."""
    check_agreement(raw)
    assert result_of(raw, device_import_decoder.read_line)[0] in (ValidationError, MalformedBody)


@pytest.mark.parametrize(
    "member",
    [
        *('"user_id":"a","user_id":"b"', '"attributes":{"a":1,"a":2}', '"attributes":{"a":1e999}'),
        *('"user_id":"\\u0061"', '"user_id":"\\ud83d"', '"user_id":"\\ud83d\\ude00"', '"user_id":"\\\\u0000"'),
        *('"attributes":{"a":"\\u0000"}', '"attributes":{"\\u0000":1}', '"attributes":{"a":-0}'),
        *('"attributes":{"a":1e2}', '"attributes":{"a":01}'),
    ],
)
def test_json_variants_give_the_model_s_result(member: str) -> None:
    """The fast decoder and the request model decode duplicate names, escapes and number formats alike."""
    valid = json.dumps({"subscription": SUBSCRIPTION})
    check_agreement(f"{valid[:-1]},{member}}}".encode())
