"""Parsing of CAP and NWS documents: required fields, ignored faults, and the effective message type."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from gateway.alerting import cap, feeds, nws, vtec
from gateway.alerting.text import RefusedAlert, plain_text
from gateway.domain.alert import AlertMessage, Certainty, MessageType, Severity
from gateway.domain.errors import MalformedBody
from tests.support import alerts

NAMESPACE = "urn:oasis:names:tc:emergency:cap:1.2"


def build_info(language: str | None = None, *, event: str = "Storm", extra: str = "", area: str = "A1") -> str:
    """Return an info element; `extra` is further XML in it, and `area` a UGC code."""
    language_element = f"<language>{language}</language>" if language else ""
    geocode = f"<geocode><valueName>UGC</valueName><value>{area}</value></geocode>"
    return f"""<info>{language_element}<event>{event}</event><urgency>Expected</urgency><severity>Severe</severity>
        <certainty>Likely</certainty>{extra}<area><areaDesc>x</areaDesc>{geocode}</area></info>"""


def build_document(*infos: str, namespace: str = NAMESPACE, **fields: str) -> bytes:
    """Return a CAP document with these infos; `fields` replace its other elements."""
    elements = {
        "identifier": "a-1",
        "sender": "office@example.org",
        "sent": "2026-07-01T12:00:00+02:00",
        "status": "Actual",
        "msgType": "Alert",
        "scope": "Public",
    } | fields
    body = "".join(f"<{name}>{value}</{name}>" for name, value in elements.items())
    return f'<alert xmlns="{namespace}">{body}{"".join(infos)}</alert>'.encode()


def parse_message(*infos: str, **fields: str) -> AlertMessage:
    [message] = cap.read(build_document(*(infos or (build_info(),)), **fields))
    assert isinstance(message, AlertMessage), message
    return message


def refusal_reasons(raw: bytes) -> tuple[str, ...]:
    [alert] = cap.read(raw)
    assert isinstance(alert, RefusedAlert), alert
    return alert.reasons


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.2"])
def test_every_cap_version_is_parsed(version: str) -> None:
    """CAP 1.0, 1.1 and 1.2 differ in their namespace."""
    message = parse_message(namespace=f"urn:oasis:names:tc:emergency:cap:{version}")
    assert (message.identifier, message.sender) == ("a-1", "office@example.org")
    assert message.sent == datetime(2026, 7, 1, 10, tzinfo=UTC)
    [info] = message.infos
    assert (info.severity, info.certainty, info.texts[0].language) == (Severity.SEVERE, Certainty.LIKELY, "en-US")


def test_all_refusal_reasons_are_reported_together() -> None:
    """A document with six faults is refused with six reasons."""
    reasons = refusal_reasons(
        build_document(identifier="", sent="yesterday", scope="Private", status="Perhaps", msgType="Ack")
    )
    assert len(reasons) == 6
    assert "scope is 'Private'" in reasons[2]


def test_infos_in_several_languages_are_merged() -> None:
    """Infos in different languages describe one event; two infos in one language describe two events."""
    languages = [
        [text.language for text in info.texts] for info in parse_message(build_info("en"), build_info("fr")).infos
    ]
    assert languages == [["en", "fr"]]
    infos = parse_message(
        build_info("en", area="A1"),
        build_info("en", area="B2"),
        build_info("fr", area="B2"),
        build_info("fr", area="A1"),
    ).infos
    assert [[text.language for text in info.texts] for info in infos] == [["en", "fr"], ["en", "fr"]]
    assert [info.area for info in infos] == [{"zone": ["A1", "UGC:A1"]}, {"zone": ["B2", "UGC:B2"]}]


def test_unknown_severity_is_reported_as_ignored() -> None:
    """An unknown value is read as Unknown; CAP 1.0's `Very Likely` is read as Likely."""
    message = parse_message(build_info().replace("Severe", "Dreadful").replace("Likely", "Very Likely"))
    assert (message.infos[0].severity, message.infos[0].certainty) == (Severity.UNKNOWN, Certainty.LIKELY)
    assert message.ignored == (
        "severity 'Dreadful': not one of Extreme, Severe, Moderate, Minor, Unknown; read as Unknown",
    )


def test_references_are_parsed_to_identifiers() -> None:
    """A reference is sender, identifier and time, or the identifier alone; an identifier may have a comma."""
    text = "o@example.org,a-0,2026-07-01T10:00:00+02:00\n o@example.org,tag:x,y,2026-07-01T10:00:00+02:00 bare"
    assert parse_message(msgType="Update", references=text).references == ("a-0", "tag:x,y", "bare")


@pytest.mark.parametrize(
    ("message_type", "extra", "effective"),
    [
        ("Alert", "", MessageType.ALERT),
        ("Alert", "<responseType>AllClear</responseType>", MessageType.ALERT),
        ("Update", "<responseType>AllClear</responseType>", MessageType.CANCEL),
        ("Cancel", "", MessageType.CANCEL),
        ("Update", "", MessageType.UPDATE),
        ("Alert", "O.CAN", MessageType.CANCEL),
        ("Alert", "O.UPG", MessageType.CANCEL),
        ("Alert", "O.CON", MessageType.UPDATE),
        ("Alert", "O.NEW", MessageType.ALERT),
        ("Update", "O.CAN", MessageType.CANCEL),
    ],
)
def test_effective_message_type_follows_vtec_and_all_clear(
    message_type: str, extra: str, effective: MessageType
) -> None:
    """VTEC codes, and `AllClear` in an update, override msgType."""
    if extra.startswith("O."):
        code = f"/{extra}.KFGF.HT.Y.0004.000000T0000Z-260717T0300Z/"
        extra = f"<parameter><valueName>VTEC</valueName><value>{code}</value></parameter>"
    assert parse_message(build_info(extra=extra), msgType=message_type).message_type is effective


def test_prefix_cdata_comments_and_signature_are_ignored() -> None:
    """Documents that differ only in XML syntax are parsed to equal messages."""
    raw = build_document(build_info()).replace(b"<event>Storm", b"<!-- x --><event><![CDATA[Storm & rain]]>")
    raw = raw.replace(b"</alert>", b'<Signature xmlns="http://www.w3.org/2000/09/xmldsig#"/></alert>')
    prefixed = raw.replace(b"xmlns=", b"xmlns:c=", 1)
    for name in ("alert", "identifier", "sender", "sent", "status", "msgType", "scope", "info", "event", "urgency",
                 "severity", "certainty", "area", "areaDesc", "geocode", "valueName", "value"):  # fmt: skip
        prefixed = prefixed.replace(f"<{name}".encode(), f"<c:{name}".encode())
        prefixed = prefixed.replace(f"</{name}".encode(), f"</c:{name}".encode())
    [without_prefix], [with_prefix] = cap.read(raw), cap.read(prefixed)
    assert without_prefix == with_prefix
    assert isinstance(without_prefix, AlertMessage)
    assert without_prefix.infos[0].texts[0].event == "Storm & rain"


def test_html_in_a_text_field_becomes_plain_text() -> None:
    """Some alert issuers send HTML in text fields."""
    assert plain_text("LEVEL: 1<br />PLACE: 12 Cox St&amp;Co<p>Go.</p>") == "LEVEL: 1\nPLACE: 12 Cox St&CoGo."
    assert plain_text("1 < 2 and 3 > 2") == "1 < 2 and 3 > 2"
    assert plain_text("  ") is None


@pytest.mark.parametrize(
    "raw",
    [
        b"<a/>",
        b"<" * 1000,
        b"<a>" * 1000,
        b'<!DOCTYPE a><a xmlns="urn:oasis:names:tc:emergency:cap:1.2"/>',
        b'<!DOCTYPE a SYSTEM "http://127.0.0.1/x"><a/>',
        b"<a>" + b"<b/>" * 500_000 + b"</a>",
    ],
)
def test_document_that_is_no_alert_is_malformed(raw: bytes) -> None:
    """Invalid XML, XML that is not CAP, and XML attacks raise MalformedBody."""
    with pytest.raises(MalformedBody):
        cap.read(raw)


def test_stored_parts_of_a_hostile_document_are_bounded() -> None:
    """An event of 100,000 characters and a list of 1,000 ignored polygons are truncated."""
    nonsense = "<polygon>x y</polygon>" * 1000
    message = parse_message(build_info(event="e" * 100_000).replace("<areaDesc>", nonsense + "<areaDesc>"))
    assert len(message.infos[0].texts[0].event) == 200
    assert len(message.ignored) == 50


def test_vtec_gives_event_key_and_action() -> None:
    """The event key consists of the office, phenomenon, significance and number of the VTEC code."""
    assert vtec.read(["/O.EXT.KEWX.FF.W.0067.000000T0000Z-260715T2100Z/\n/00000.0.SM.000000T0000Z/"]) == (
        ("VTEC:KEWX.FF.W.0067",),
        MessageType.UPDATE,
    )
    assert vtec.read(["nothing"]) == ((), None)


def test_mixed_vtec_actions_are_an_update() -> None:
    """A message in which one event ends and another begins is an update."""
    codes = [f"/O.{action}.KAMA.FW.A.0021.260514T1800Z-260515T0200Z/" for action in ("UPG", "NEW")]
    assert vtec.read(codes).message_type is MessageType.UPDATE


def nws_feature(**changes: Any) -> dict[str, Any]:
    """Return a real feature of the NWS API; `changes` replace some of its properties."""
    feature: dict[str, Any] = json.loads(alerts.read("nws/flood-warning-ends-null.json"))
    feature["properties"] |= changes
    return feature


def test_nws_feature_is_parsed() -> None:
    """The message has the area, language and event key of the feature."""
    [message] = nws.read(nws_feature())
    assert isinstance(message, AlertMessage)
    [info] = message.infos
    assert info.area is not None
    assert [next(iter(leaf)) for leaf in info.area["any"]] == ["within", "zone"]
    assert info.texts[0].language == "en-US"
    assert message.event_keys == ("VTEC:KEWX.FL.W.0033",)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"id": None}, "properties.id"),
        ({"sent": "now"}, "properties.sent"),
        ({"event": ""}, "properties.event"),
        ({"status": "Perhaps"}, "properties.status"),
        ({"messageType": "Ack"}, "properties.messageType"),
        ({"scope": "Restricted"}, "scope is 'Restricted'"),
    ],
)
def test_incomplete_nws_feature_is_refused(changes: dict[str, Any], reason: str) -> None:
    """The reason names the missing field."""
    [alert] = nws.read(nws_feature(**changes))
    assert isinstance(alert, RefusedAlert)
    assert reason in alert.reasons[0]


def test_unstorable_characters_are_dropped() -> None:
    """Postgres cannot store NUL and lone surrogates, so they are removed from all texts."""
    [message] = nws.read(nws_feature(headline="Flood\0 \ud800now", sender="a\0b", areaDesc="x\udfff", id="i\0d"))
    assert isinstance(message, AlertMessage)
    assert (message.infos[0].texts[0].headline, message.sender, message.identifier) == ("Flood now", "ab", "id")
    assert message.details["areaDesc"] == "x"


@pytest.mark.parametrize("value", [None, [], {}, {"type": "Point"}, {"type": "FeatureCollection"}, "x"])
def test_json_that_is_no_feature_is_malformed(value: object) -> None:
    """JSON values that are not a feature raise MalformedBody."""
    with pytest.raises(MalformedBody):
        nws.read(value)


@pytest.mark.parametrize(
    "properties",
    [{"geocode": 1}, {"geocode": {"UGC": "TXC1"}}, {"parameters": [1]}, {"references": {}}, {"affectedZones": None}],
)
def test_invalid_optional_properties_are_ignored(properties: dict[str, Any]) -> None:
    """An optional property of the wrong type does not make the feature invalid."""
    [message] = nws.read(nws_feature(**properties))
    assert isinstance(message, AlertMessage)


def test_every_real_document_is_parsed() -> None:
    """Each document in tests/data has messages, except the documents with `bad-` or `hostile` in their name."""
    for name in alerts.list_files():
        raw = alerts.read(name)
        try:
            messages = cap.read(raw) if name.endswith(".xml") else nws.read(json.loads(raw))
        except MalformedBody:
            assert "bad-" in name or "hostile" in name
            continue
        assert messages


def test_number_of_infos_is_bounded() -> None:
    """The parser compares each info with all before it, so its time would grow with the square of their number."""
    message = parse_message(*[build_info("en")] * 20_000)
    assert len(message.infos) == cap.MAX_INFOS
    assert message.ignored[0] == f"all but {cap.MAX_INFOS} info blocks"


@pytest.mark.parametrize("number", ["1" + "0" * 400, "NaN", "-Infinity", "1e999"])
def test_invalid_coordinates_are_ignored(number: str) -> None:
    """A polygon with NaN, infinity or a huge number is ignored, and so is a reference without an identifier."""
    properties = {"id": "a", "sent": "2026-01-01T00:00:00Z", "event": "Storm", "status": "Actual"}
    extra = {"messageType": "Alert", "references": [{"identifier": "b"}, "c", 7, [[["d"]]], None]}
    ring = [[1, 2], ["HERE", 2], [2, 3], [1, 2]]
    feature = {
        "type": "Feature",
        "properties": properties | extra,
        "geometry": {"type": "Polygon", "coordinates": [ring]},
    }
    raw = json.dumps(feature).replace('"HERE"', number).encode()
    [message] = feeds.read(raw, "https://alerts.example.org/").alerts
    assert isinstance(message, AlertMessage)
    assert (message.infos[0].area, message.references, len(message.ignored)) == (None, ("b", "c"), 1)
