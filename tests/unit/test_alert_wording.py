"""What an alert says on a screen: its languages, what is cut, and what takes it back."""

from dataclasses import replace
from typing import Any

import pytest

from gateway.domain.alert import ROUTINE, URGENT, AlertInfo, AlertMessage, AlertStatus, LocalizedText, MessageType
from gateway.push.encryption import MAX_PAYLOAD
from gateway.push.payload import compose
from gateway.service.alerts.content import (
    BODY_OCTETS,
    MAX_BODY_LENGTH,
    MAX_TITLE_LENGTH,
    alert_content,
    cancellation_content,
)


def message(*words: LocalizedText, status: AlertStatus = AlertStatus.ACTUAL) -> AlertMessage:
    return AlertMessage("smhi-7", MessageType.ALERT, (AlertInfo(words, None),), status=status)


def told(*words: LocalizedText, **said: Any) -> dict[str, Any]:
    one = message(*words, **said)
    return alert_content(one, one.infos[0], URGENT, "tag")


STORM = LocalizedText("en", "Storm")


def test_the_headline_is_the_title_and_what_to_do_comes_after_what_happens() -> None:
    said = told(replace(STORM, headline="Storm at the coast", description=" Waves of 9 m. ", instruction="Stay away."))
    assert (said["title"], said["body"]) == ("Storm at the coast", "Waves of 9 m.\n\nStay away.")
    assert (told(STORM)["title"], told(STORM)["body"], told(STORM)["tag"]) == ("Storm", "", "tag")
    assert "locales" not in told(STORM)


def test_an_urgent_alert_stays_on_the_screen() -> None:
    one = message(STORM)
    assert told(STORM)["require_interaction"] is True
    assert alert_content(one, one.infos[0], ROUTINE, "tag")["require_interaction"] is False


@pytest.mark.parametrize("status", [status for status in AlertStatus if status is not AlertStatus.ACTUAL])
def test_what_is_not_actual_says_so_in_every_language(status: AlertStatus) -> None:
    said = told(STORM, LocalizedText("de", "Sturm"), status=status)
    assert said["title"] == f"[{status}] Storm"
    assert said["locales"]["de"]["title"] == f"[{status}] Sturm"


def test_a_language_of_one_country_serves_all_who_read_it() -> None:
    said = told(
        LocalizedText("en-US", "Storm"),
        LocalizedText("es-US", "Tormenta"),
        LocalizedText("de-LS", "Wind"),
        LocalizedText("de", "Sturm"),
    )
    titles = {language: spoken["title"] for language, spoken in said["locales"].items()}
    assert titles == {
        "en": "Storm", "en-US": "Storm", "es": "Tormenta", "es-US": "Tormenta", "de-LS": "Wind", "de": "Sturm",
    }  # fmt: skip


def test_norwegian_serves_bokmal_and_nynorsk() -> None:
    said = told(LocalizedText("no", "Kuling"), LocalizedText("en-GB", "Gale"))
    assert said["locales"]["nb"] == said["locales"]["nn"] == said["locales"]["no"]


@pytest.mark.parametrize("letter", ["x", "ä", "漢", "🌪"])
def test_long_texts_are_cut_so_that_one_message_holds_them(letter: str) -> None:
    said = told(replace(STORM, headline=letter * 500, description=letter * 5000))
    assert len(said["title"]) <= MAX_TITLE_LENGTH
    assert len(said["body"]) <= MAX_BODY_LENGTH
    assert len(said["body"].encode()) <= BODY_OCTETS
    assert said["title"].endswith("…")
    assert said["body"].endswith("…")
    composed = compose(said, tag="t" * 255, notification_id="ntf_" + "0" * 32, receipts_url="https://" + "h" * 200)
    assert composed.size + 66 <= MAX_PAYLOAD


def test_an_end_is_told_in_the_devices_language_with_what_the_office_says_of_it() -> None:
    end = replace(
        message(LocalizedText("de", "Sturm", description="Die Lage ist entspannt.")), message_type=MessageType.CANCEL
    )
    said = cancellation_content(end, [LocalizedText(None, "Storm")], "tag", left=False)
    assert (said["title"], said["body"]) == ("Nicht mehr gültig: Sturm", "Die Lage ist entspannt.")
    assert said["locales"]["fr"]["title"] == "N’est plus en vigueur: Sturm"
    assert said["tag"] == "tag"


def test_whoever_left_the_area_is_told_that_and_not_what_holds_elsewhere() -> None:
    update = message(LocalizedText("en", "Storm", headline="Storm grows", description="Run."))
    said = cancellation_content(update, [LocalizedText(None, "Storm")], "tag", left=True)
    assert (said["title"], said["body"]) == ("No longer in effect: Storm", "It no longer applies where you are.")
    assert said["locales"]["de"]["body"] == "Gilt an Ihrem Standort nicht mehr."


def test_an_end_without_words_names_what_has_ended() -> None:
    bare = AlertMessage("smhi-8", MessageType.CANCEL, ())
    said = cancellation_content(bare, [LocalizedText(None, "Storm")], "tag", left=False)
    assert said["title"] == "No longer in effect: Storm"
