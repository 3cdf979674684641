"""Reading CAP and NWS documents: what is required, what is forgiven, what a message does."""

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


def info(language: str | None = None, *, event: str = "Storm", extra: str = "", area: str = "A1") -> str:
    spoken = f"<language>{language}</language>" if language else ""
    where = f"<geocode><valueName>UGC</valueName><value>{area}</value></geocode>"
    return f"""<info>{spoken}<event>{event}</event><urgency>Expected</urgency><severity>Severe</severity>
        <certainty>Likely</certainty>{extra}<area><areaDesc>x</areaDesc>{where}</area></info>"""


def document(*infos: str, namespace: str = NAMESPACE, **said: str) -> bytes:
    head = {
        "identifier": "a-1",
        "sender": "office@example.org",
        "sent": "2026-07-01T12:00:00+02:00",
        "status": "Actual",
        "msgType": "Alert",
        "scope": "Public",
    } | said
    body = "".join(f"<{name}>{value}</{name}>" for name, value in head.items())
    return f'<alert xmlns="{namespace}">{body}{"".join(infos)}</alert>'.encode()


def read(*infos: str, **said: str) -> AlertMessage:
    [found] = cap.read(document(*(infos or (info(),)), **said))
    assert isinstance(found, AlertMessage), found
    return found


def reasons(raw: bytes) -> tuple[str, ...]:
    [found] = cap.read(raw)
    assert isinstance(found, RefusedAlert), found
    return found.reasons


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.2"])
def test_every_version_of_cap_is_read(version: str) -> None:
    found = read(namespace=f"urn:oasis:names:tc:emergency:cap:{version}")
    assert (found.identifier, found.sender) == ("a-1", "office@example.org")
    assert found.sent == datetime(2026, 7, 1, 10, tzinfo=UTC)
    [part] = found.infos
    assert (part.severity, part.certainty, part.texts[0].language) == (Severity.SEVERE, Certainty.LIKELY, "en-US")


def test_every_reason_is_named_at_once() -> None:
    told = reasons(document(identifier="", sent="yesterday", scope="Private", status="Perhaps", msgType="Ack"))
    assert len(told) == 6
    assert "scope is 'Private'" in told[2]


def test_languages_of_one_thing_are_one_part_and_two_of_a_language_are_two() -> None:
    languages = [[words.language for words in part.texts] for part in read(info("en"), info("fr")).infos]
    assert languages == [["en", "fr"]]
    two = read(info("en", area="A1"), info("en", area="B2"), info("fr", area="B2"), info("fr", area="A1")).infos
    assert [[words.language for words in part.texts] for part in two] == [["en", "fr"], ["en", "fr"]]
    assert [part.area for part in two] == [{"zone": ["A1", "UGC:A1"]}, {"zone": ["B2", "UGC:B2"]}]


def test_a_word_that_is_none_of_the_scales_is_unknown_and_told() -> None:
    found = read(info().replace("Severe", "Dreadful").replace("Likely", "Very Likely"))
    assert (found.infos[0].severity, found.infos[0].certainty) == (Severity.UNKNOWN, Certainty.LIKELY)
    assert found.ignored == (
        "severity 'Dreadful': not one of Extreme, Severe, Moderate, Minor, Unknown; read as Unknown",
    )


def test_references_are_triples_of_which_the_middle_is_the_identifier() -> None:
    text = "o@example.org,a-0,2026-07-01T10:00:00+02:00\n o@example.org,tag:x,y,2026-07-01T10:00:00+02:00 bare"
    assert read(msgType="Update", references=text).references == ("a-0", "tag:x,y", "bare")


@pytest.mark.parametrize(
    ("said", "extra", "does"),
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
def test_what_a_message_does_is_not_always_what_it_says(said: str, extra: str, does: MessageType) -> None:
    if extra.startswith("O."):
        code = f"/{extra}.KFGF.HT.Y.0004.000000T0000Z-260717T0300Z/"
        extra = f"<parameter><valueName>VTEC</valueName><value>{code}</value></parameter>"
    assert read(info(extra=extra), msgType=said).message_type is does


def test_a_prefix_cdata_comments_and_a_signature_change_nothing() -> None:
    raw = document(info()).replace(b"<event>Storm", b"<!-- x --><event><![CDATA[Storm & rain]]>")
    raw = raw.replace(b"</alert>", b'<Signature xmlns="http://www.w3.org/2000/09/xmldsig#"/></alert>')
    prefixed = raw.replace(b"xmlns=", b"xmlns:c=", 1)
    for name in ("alert", "identifier", "sender", "sent", "status", "msgType", "scope", "info", "event", "urgency",
                 "severity", "certainty", "area", "areaDesc", "geocode", "valueName", "value"):  # fmt: skip
        prefixed = prefixed.replace(f"<{name}".encode(), f"<c:{name}".encode())
        prefixed = prefixed.replace(f"</{name}".encode(), f"</c:{name}".encode())
    [plain], [with_prefix] = cap.read(raw), cap.read(prefixed)
    assert plain == with_prefix
    assert isinstance(plain, AlertMessage)
    assert plain.infos[0].texts[0].event == "Storm & rain"


def test_html_in_what_should_be_text_is_made_text() -> None:
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
def test_what_is_no_alert_is_malformed(raw: bytes) -> None:
    with pytest.raises(MalformedBody):
        cap.read(raw)


def test_what_is_kept_of_a_hostile_document_is_bounded() -> None:
    nonsense = "<polygon>x y</polygon>" * 1000
    found = read(info(event="e" * 100_000).replace("<areaDesc>", nonsense + "<areaDesc>"))
    assert len(found.infos[0].texts[0].event) == 200
    assert len(found.ignored) == 50


def test_vtec_names_the_event_and_what_is_done_to_it() -> None:
    assert vtec.read(["/O.EXT.KEWX.FF.W.0067.000000T0000Z-260715T2100Z/\n/00000.0.SM.000000T0000Z/"]) == (
        ("VTEC:KEWX.FF.W.0067",),
        MessageType.UPDATE,
    )
    assert vtec.read(["nothing"]) == ((), None)


def test_a_mixture_of_endings_and_beginnings_is_an_update() -> None:
    codes = [f"/O.{action}.KAMA.FW.A.0021.260514T1800Z-260515T0200Z/" for action in ("UPG", "NEW")]
    assert vtec.read(codes).message_type is MessageType.UPDATE


def nws_feature(**changed: Any) -> dict[str, Any]:
    feature: dict[str, Any] = json.loads(alerts.read("nws/flood-warning-ends-null.json"))
    feature["properties"] |= changed
    return feature


def test_an_nws_feature_is_read_as_it_comes() -> None:
    [found] = nws.read(nws_feature())
    assert isinstance(found, AlertMessage)
    [part] = found.infos
    assert part.area is not None
    assert [next(iter(leaf)) for leaf in part.area["any"]] == ["within", "zone"]
    assert part.texts[0].language == "en-US"
    assert found.event_keys == ("VTEC:KEWX.FL.W.0033",)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"id": None}, "properties.id"),
        ({"sent": "now"}, "properties.sent"),
        ({"event": ""}, "properties.event"),
        ({"status": "Perhaps"}, "properties.status"),
        ({"messageType": "Ack"}, "properties.messageType"),
        ({"scope": "Restricted"}, "scope is 'Restricted'"),
    ],
)
def test_an_nws_feature_without_what_it_needs_is_refused(changed: dict[str, Any], reason: str) -> None:
    [found] = nws.read(nws_feature(**changed))
    assert isinstance(found, RefusedAlert)
    assert reason in found.reasons[0]


def test_characters_that_cannot_be_kept_are_left_out() -> None:
    [found] = nws.read(nws_feature(headline="Flood\0 \ud800now", sender="a\0b", areaDesc="x\udfff", id="i\0d"))
    assert isinstance(found, AlertMessage)
    assert (found.infos[0].texts[0].headline, found.sender, found.identifier) == ("Flood now", "ab", "id")
    assert found.details["areaDesc"] == "x"


@pytest.mark.parametrize("value", [None, [], {}, {"type": "Point"}, {"type": "FeatureCollection"}, "x"])
def test_what_is_no_feature_is_malformed(value: object) -> None:
    with pytest.raises(MalformedBody):
        nws.read(value)


@pytest.mark.parametrize(
    "properties",
    [{"geocode": 1}, {"geocode": {"UGC": "TXC1"}}, {"parameters": [1]}, {"references": {}}, {"affectedZones": None}],
)
def test_odd_shapes_of_what_may_be_left_out_are_passed_over(properties: dict[str, Any]) -> None:
    [found] = nws.read(nws_feature(**properties))
    assert isinstance(found, AlertMessage)


def test_every_real_file_is_read_without_a_surprise() -> None:
    for name in alerts.list_names():
        raw = alerts.read(name)
        try:
            found = cap.read(raw) if name.endswith(".xml") else nws.read(json.loads(raw))
        except MalformedBody:
            assert "bad-" in name or "hostile" in name
            continue
        assert found


def test_of_more_info_blocks_than_anybody_writes_the_first_are_read() -> None:
    """Each is compared with those before it: what a document can hold would take hours."""
    message = read(*[info("en")] * 20_000)
    assert len(message.infos) == cap.MAX_INFOS
    assert message.ignored[0] == f"all but {cap.MAX_INFOS} info blocks"


@pytest.mark.parametrize("number", ["1" + "0" * 400, "NaN", "-Infinity", "1e999"])
def test_a_feed_with_numbers_that_are_no_places_is_read_without_them(number: str) -> None:
    properties = {"id": "a", "sent": "2026-01-01T00:00:00Z", "event": "Storm", "status": "Actual"}
    said = {"messageType": "Alert", "references": [{"identifier": "b"}, "c", 7, [[["d"]]], None]}
    ring = [[1, 2], ["HERE", 2], [2, 3], [1, 2]]
    feature = {
        "type": "Feature",
        "properties": properties | said,
        "geometry": {"type": "Polygon", "coordinates": [ring]},
    }
    raw = json.dumps(feature).replace('"HERE"', number).encode()
    [message] = feeds.read(raw, "https://alerts.example.org/").alerts
    assert isinstance(message, AlertMessage)
    assert (message.infos[0].area, message.references, len(message.ignored)) == (None, ("b", "c"), 1)
