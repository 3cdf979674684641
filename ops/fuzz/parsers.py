"""Fuzz the parsers of untrusted documents. Any exception other than a GatewayError is a crash.

Target `cap` fuzzes CAP, NWS and feeds. Target `ndjson` fuzzes the lines of an import; each line is parsed as a
registration and as an event. Target `audience` fuzzes an audience filter and compiles it to SQL. Half of the inputs are
libFuzzer's raw bytes. The other half are documents built from such bytes, so that the fuzzer gets past the outermost
parser.
"""

import asyncio
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import atheris

with atheris.instrument_imports(include=["gateway"]):
    from sqlalchemy.dialects import postgresql

    from gateway.alerting import cap, feeds, nws
    from gateway.domain import audience
    from gateway.domain.alert import AlertMessage
    from gateway.domain.errors import BodyTooLarge, GatewayError
    from gateway.push.endpoints import EndpointPolicy
    from gateway.records.audiences import compile_audience
    from gateway.web.api.devices import NewDevice
    from gateway.web.api.events import NewEvent
    from gateway.web.http.ndjson import MAX_LINE_LENGTH, read_lines
    from gateway.web.http.parsing import read_body, read_json

NAMESPACE = "urn:oasis:names:tc:emergency:cap:1.2"
CAP_NAMES = (
    *("alert", "info", "area", "polygon", "circle", "geocode", "parameter", "valueName", "value", "references"),
    *("identifier", "sender", "sent", "status", "msgType", "scope", "language", "event", "headline", "description"),
    *("instruction", "web", "urgency", "severity", "certainty", "expires", "responseType", "entry", "link", "feed"),
)
CAP_TEXTS = (
    *("Public", "Actual", "Alert", "Update", "Cancel", "Immediate", "Severe", "Observed", "AllClear", "VTEC", "SAME"),
    *("2026-01-01T00:00:00Z", "48.2,16.3 48.3,16.3 48.3,16.4 48.2,16.3", "48.2,16.3 5", "EXCLUDE_POLYGON", "a,b,c"),
    *("/O.NEW.KFWD.SV.W.0001.260101T0000Z-260102T0000Z/", "89,179 89,-179 -89,-179", "nan,inf 1e999,-0", "de-AT"),
)
AUDIENCE_NAMES = (
    *("everyone", "topic", "zone", "user_id", "device_id", "notified", "segment", "locale", "timezone", "platform"),
    *("browser", "last_seen", "attribute", "within", "near", "all", "any", "not", "eq", "ne", "in", "lt", "gte"),
    *("exists", "contains", "type", "coordinates", "lat", "lon", "radius_m", "after", "before", "title", "name"),
    *("subscription", "endpoint", "keys", "p256dh", "auth", "attributes", "topics", "data", "occurred_at", "client"),
)
AUDIENCE_TEXTS = (
    *("weather", "Polygon", "MultiPolygon", "2026-01-01T00:00:00Z", "seg_" + "0" * 32, "dev_" + "0" * 32, "%", "_"),
    *("https://fcm.googleapis.com/x", "BTBZMqHH6r4Tts7J_aSIgg", "\0", "\ud800", "Europe/Vienna", "de-AT"),
)

NWS_NAMES = (
    *("type", "features", "properties", "geometry", "coordinates", "id", "identifier", "sent", "event", "status"),
    *("messageType", "references", "geocode", "UGC", "SAME", "parameters", "VTEC", "expires", "ends", "severity"),
)
NWS_TEXTS = ("Feature", "FeatureCollection", "Polygon", "MultiPolygon", "Actual", "Alert", *CAP_TEXTS)

_dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
_policy = EndpointPolicy()
_loop = asyncio.new_event_loop()


def fuzz_cap(data: bytes) -> None:
    """Parse the input as CAP, as a feed and as NWS GeoJSON."""
    source = atheris.FuzzedDataProvider(data[1:])
    if data[:1] < b"\x60":
        raw = data[1:]
    elif data[:1] < b"\xb0":
        raw = _document(source).encode("utf-8", "replace")
    else:
        raw = json.dumps(_feature(source)).encode()
    for messages in (
        _parse(cap.read, raw),
        _parse(lambda raw: feeds.read(raw, "https://alerts.example.org/feed").alerts, raw),
        _parse(lambda raw: nws.read(read_json(raw)), raw),
    ):
        for message in messages or ():
            if isinstance(message, AlertMessage):
                for info in message.infos:
                    if info.area is not None:
                        compile_audience(
                            audience.parse(info.area)
                        )  # the filter of an alert area must be a valid audience
            assert "\0" not in repr(message)


def fuzz_ndjson(data: bytes) -> None:
    """Feed the input to the line reader in pieces of uneven size, and parse each line that it returns."""
    source = atheris.FuzzedDataProvider(data[1:])
    if data[:1] < b"\x80":
        raw = data[1:]
    else:
        documents = [json.dumps(_value(source, 6)).encode() for _ in range(source.ConsumeIntInRange(1, 4))]
        raw = b"\n".join(documents)
    pieces, at = [], 0
    while at < len(raw):
        size = 1 + (raw[at] * 7 + at) % 97
        pieces.append(raw[at : at + size])
        at += size
    try:
        lines = _loop.run_until_complete(_read_lines(pieces))
    except BodyTooLarge:
        assert len(raw) > MAX_LINE_LENGTH
        return
    assert [line for _, line in lines] == (raw.split(b"\n") if raw[-1:] != b"\n" else raw.split(b"\n")[:-1]) or not raw
    for _, line in lines:
        device = _parse(lambda line: read_body(NewDevice, line).value(), line)
        if device is not None:
            _parse(_policy.check, device.subscription.endpoint)
        _parse(lambda line: read_body(NewEvent, line), line)


def fuzz_audience(data: bytes) -> None:
    """Parse the input as an audience and compile it to SQL."""
    source = atheris.FuzzedDataProvider(data[1:])
    raw = data[1:] if data[:1] < b"\x80" else json.dumps(_value(source, 8)).encode()
    value = _parse(read_json, raw)
    parsed = None if value is None else _parse(audience.parse, value)
    if parsed is not None and not list(audience.iter_segments(parsed)):
        compile_audience(parsed).compile(dialect=_dialect)


class _Request:
    """The part of a request that the line reader uses."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.content = self
        self._pieces = iter(pieces)

    async def readany(self) -> bytes:
        return next(self._pieces, b"")


async def _read_lines(pieces: list[bytes]) -> list[tuple[int, bytes]]:
    return [line async for line in read_lines(_Request(pieces))]  # type: ignore[arg-type]


def _parse(read: Callable[[Any], Any], value: Any) -> Any:
    try:
        return read(value)
    except GatewayError:
        return None


def _document(source: atheris.FuzzedDataProvider) -> str:
    def element(depth: int) -> str:
        name = source.PickValueInList(list(CAP_NAMES))
        if depth == 0 or source.ConsumeBool():
            inner = (
                source.PickValueInList(list(CAP_TEXTS))
                if source.ConsumeBool()
                else source.ConsumeUnicodeNoSurrogates(40)
            )
            inner = inner.replace("&", "&amp;").replace("<", "&lt;")
        else:
            inner = "".join(element(depth - 1) for _ in range(source.ConsumeIntInRange(0, 5)))
        return f"<{name}>{inner}</{name}>"

    required = "<identifier>a</identifier><sent>2026-01-01T00:00:00Z</sent><status>Actual</status><scope>Public</scope>"
    head = f"{required}<msgType>Alert</msgType>" if source.ConsumeBool() else ""
    body = "".join(element(4) for _ in range(source.ConsumeIntInRange(0, 6)))
    info = f"<info>{body}</info>" if source.ConsumeBool() else body
    return f'<alert xmlns="{NAMESPACE}">{head}{info}</alert>'


def _feature(source: atheris.FuzzedDataProvider) -> Any:
    ring = [[_value(source, 1, NWS_NAMES, NWS_TEXTS) for _ in range(2)] for _ in range(source.ConsumeIntInRange(0, 5))]
    properties = {"id": "a", "sent": "2026-01-01T00:00:00Z", "event": "Storm", "status": "Actual"}
    extra = {source.PickValueInList(list(NWS_NAMES)): _value(source, 4, NWS_NAMES, NWS_TEXTS) for _ in range(4)}
    geometry = {"type": "Polygon", "coordinates": [ring]}
    return {"type": "Feature", "properties": properties | {"messageType": "Alert"} | extra, "geometry": geometry}


def _value(
    source: atheris.FuzzedDataProvider,
    depth: int,
    names: Sequence[str] = AUDIENCE_NAMES,
    texts: Sequence[str] = AUDIENCE_TEXTS,
) -> Any:
    match source.ConsumeIntInRange(0, 8 if depth else 5):
        case 0:
            return source.PickValueInList(list(texts))
        case 1:
            return source.ConsumeUnicode(20)
        case 2:
            return source.ConsumeFloat()
        case 3:
            return source.ConsumeInt(9) * 10 ** source.ConsumeIntInRange(0, 400)
        case 4:
            return source.ConsumeBool()
        case 5:
            return None
        case 6:
            return [_value(source, depth - 1, names, texts) for _ in range(source.ConsumeIntInRange(0, 6))]
        case _:
            chosen = [source.PickValueInList(list(names)) for _ in range(source.ConsumeIntInRange(0, 4))]
            return {name: _value(source, depth - 1, names, texts) for name in chosen}


TARGETS = {"cap": fuzz_cap, "ndjson": fuzz_ndjson, "audience": fuzz_audience}

if __name__ == "__main__":
    target = TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()
