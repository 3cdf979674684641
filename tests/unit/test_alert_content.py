"""The notification content of an alert: languages, shortening, and cancellations."""

from dataclasses import replace
from typing import Any

import pytest

from gateway.domain.alert import ROUTINE, URGENT, AlertInfo, AlertMessage, AlertStatus, LocalizedText, MessageType
from gateway.push.encryption import MAX_PAYLOAD
from gateway.push.payload import compose
from gateway.service.alerts.content import (
    MAX_BODY_LENGTH,
    MAX_BODY_OCTETS,
    MAX_TITLE_LENGTH,
    alert_content,
    cancellation_content,
)


def build_message(*texts: LocalizedText, status: AlertStatus = AlertStatus.ACTUAL) -> AlertMessage:
    return AlertMessage("smhi-7", MessageType.ALERT, (AlertInfo(texts, None),), status=status)


def build_content(*texts: LocalizedText, **fields: Any) -> dict[str, Any]:
    message = build_message(*texts, **fields)
    return alert_content(message, message.infos[0], URGENT, "tag")


STORM = LocalizedText("en", "Storm")


def test_title_is_the_headline_and_body_ends_with_instruction() -> None:
    """The body is the description followed by the instruction; without a headline, the event is the title."""
    content = build_content(
        replace(STORM, headline="Storm at the coast", description=" Waves of 9 m. ", instruction="Stay away.")
    )
    assert (content["title"], content["body"]) == ("Storm at the coast", "Waves of 9 m.\n\nStay away.")
    assert (build_content(STORM)["title"], build_content(STORM)["body"], build_content(STORM)["tag"]) == (
        "Storm",
        "",
        "tag",
    )
    assert "locales" not in build_content(STORM)


def test_urgent_alert_requires_interaction() -> None:
    """Only urgent alerts stay until the user dismisses them."""
    message = build_message(STORM)
    assert build_content(STORM)["require_interaction"] is True
    assert alert_content(message, message.infos[0], ROUTINE, "tag")["require_interaction"] is False


@pytest.mark.parametrize("status", [status for status in AlertStatus if status is not AlertStatus.ACTUAL])
def test_test_alert_has_its_status_in_every_title(status: AlertStatus) -> None:
    """The title says in every language that the alert is an exercise, a draft or a test."""
    content = build_content(STORM, LocalizedText("de", "Sturm"), status=status)
    assert content["title"] == f"[{status}] Storm"
    assert content["locales"]["de"]["title"] == f"[{status}] Sturm"


def test_regional_language_serves_the_whole_language() -> None:
    """Texts in `en-US` are used for every English locale; texts in `de-LS` are not, because the alert has `de` too."""
    content = build_content(
        LocalizedText("en-US", "Storm"),
        LocalizedText("es-US", "Tormenta"),
        LocalizedText("de-LS", "Wind"),
        LocalizedText("de", "Sturm"),
    )
    titles = {language: texts["title"] for language, texts in content["locales"].items()}
    assert titles == {
        "en": "Storm", "en-US": "Storm", "es": "Tormenta", "es-US": "Tormenta", "de-LS": "Wind", "de": "Sturm",
    }  # fmt: skip


def test_norwegian_serves_bokmal_and_nynorsk() -> None:
    """Browsers use the language tags nb and nn; alerts use no."""
    content = build_content(LocalizedText("no", "Kuling"), LocalizedText("en-GB", "Gale"))
    assert content["locales"]["nb"] == content["locales"]["nn"] == content["locales"]["no"]


@pytest.mark.parametrize("character", ["x", "ä", "漢", "🌪"])
def test_long_texts_are_shortened_to_fit_one_message(character: str) -> None:
    """The limits count characters and octets, so that texts in any script fit in one push message."""
    content = build_content(replace(STORM, headline=character * 500, description=character * 5000))
    assert len(content["title"]) <= MAX_TITLE_LENGTH
    assert len(content["body"]) <= MAX_BODY_LENGTH
    assert len(content["body"].encode()) <= MAX_BODY_OCTETS
    assert content["title"].endswith("…")
    assert content["body"].endswith("…")
    composed = compose(content, tag="t" * 255, notification_id="ntf_" + "0" * 32, receipts_url="https://" + "h" * 200)
    assert composed.size + 66 <= MAX_PAYLOAD


def test_cancellation_has_translated_title_and_issuer_text() -> None:
    """The title begins with the gateway's translation; the body is the description of the cancelling message."""
    cancellation = replace(
        build_message(LocalizedText("de", "Sturm", description="Die Lage ist entspannt.")),
        message_type=MessageType.CANCEL,
    )
    content = cancellation_content(cancellation, [LocalizedText(None, "Storm")], "tag", left_area=False)
    assert (content["title"], content["body"]) == ("Nicht mehr gültig: Sturm", "Die Lage ist entspannt.")
    assert content["locales"]["fr"]["title"] == "N’est plus en vigueur: Sturm"
    assert content["tag"] == "tag"


def test_devices_outside_the_updated_area_get_no_new_text() -> None:
    """Devices that were in the alert's area and are not in the updated one get a cancellation without its text."""
    update = build_message(LocalizedText("en", "Storm", headline="Storm grows", description="Run."))
    content = cancellation_content(update, [LocalizedText(None, "Storm")], "tag", left_area=True)
    assert (content["title"], content["body"]) == ("No longer in effect: Storm", "It no longer applies where you are.")
    assert content["locales"]["de"]["body"] == "Gilt an Ihrem Standort nicht mehr."


def test_cancellation_without_text_names_the_event() -> None:
    """The title contains the event of the alert that is cancelled."""
    message_without_info = AlertMessage("smhi-8", MessageType.CANCEL, ())
    content = cancellation_content(message_without_info, [LocalizedText(None, "Storm")], "tag", left_area=False)
    assert content["title"] == "No longer in effect: Storm"
