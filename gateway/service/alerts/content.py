"""Build the notification content of an alert, in every language of the alert.

When the message for a device is rendered, its language is looked up by the locale of the device (RFC 4647 section 3.4).
A text in `es-US` is also used for other Spanish locales, unless the alert has a text in `es`.
"""

from collections.abc import Sequence

from gateway.domain.alert import AlertInfo, AlertMessage, AlertRouting, AlertStatus, LocalizedText
from gateway.domain.json_object import JsonObject
from gateway.domain.notification import Lane

# Limits of title and body, in characters and in octets of UTF-8. Android shows fewer characters. Mozilla's bridge to
# Android accepts about 3,070 octets for the whole payload.
MAX_TITLE_LENGTH = 200
MAX_BODY_LENGTH = 1000
MAX_TITLE_OCTETS = 400
MAX_BODY_OCTETS = 2200
# Maximum number of locales in the content of a notification.
MAX_LANGUAGES = 90

# By language: the title of a cancellation, and the explanation for devices that are no longer in the alert's area.
CANCELLATION_TEXTS = {
    "en": ("No longer in effect", "It no longer applies where you are."),
    "de": ("Nicht mehr gültig", "Gilt an Ihrem Standort nicht mehr."),
    "fr": ("N’est plus en vigueur", "Ne concerne plus l’endroit où vous êtes."),
    "es": ("Ya no está en vigor", "Ya no afecta al lugar donde se encuentra."),
    "it": ("Non più in vigore", "Non riguarda più il luogo in cui si trova."),
    "pt": ("Já não está em vigor", "Já não se aplica ao local onde está."),
    "nl": ("Niet meer van kracht", "Geldt niet meer waar u bent."),
    "pl": ("Już nie obowiązuje", "Nie dotyczy już miejsca, w którym jesteś."),
    "ru": ("Больше не действует", "Больше не относится к вашему местоположению."),
    "tr": ("Artık geçerli değil", "Bulunduğunuz yer için artık geçerli değil."),
    "ar": ("لم يعد ساريًا", "لم يعد ينطبق على مكان وجودك."),
}

# Locales that browsers use for Norwegian. They receive the text of an alert in `no`.
NORWEGIAN = ("nb", "nn")


def alert_content(message: AlertMessage, info: AlertInfo, routing: AlertRouting, tag: str | None) -> JsonObject:
    """Return the content of a warning, in the languages of the info block."""
    by_language = {_language(text): _localized_content(message.status, text) for text in info.texts}
    first_text = info.texts[0]
    content = by_language[_language(first_text)] | {
        "require_interaction": routing.lane is Lane.URGENT,
        "data": {"alert": {"event": first_text.event, "severity": info.severity, "urgency": info.urgency}},
    }
    return _with_locales(content, by_language, _language(first_text), tag)


def cancellation_content(
    message: AlertMessage, previous_texts: Sequence[LocalizedText], tag: str, *, left_area: bool
) -> JsonObject:
    """Return the content of a cancellation.

    `previous_texts` are the texts of the cancelled warning. They are used for languages that `message` lacks.
    `left_area` is True if an update no longer covers the area of the recipients.
    """
    new_texts = message.infos[0].texts if message.infos else ()
    texts = {_language(text): text for text in (*previous_texts, *new_texts)}
    first_text = (
        (*new_texts, *previous_texts)[0]
        if new_texts or previous_texts
        else LocalizedText(None, message.identifier or "Alert")
    )
    base = _language(first_text) or "en"
    by_language = {}
    for language in {
        *CANCELLATION_TEXTS,
        *(language for language in texts if _primary(language) in CANCELLATION_TEXTS),
    }:
        title, left_area_text = CANCELLATION_TEXTS[_primary(language)]
        text = texts.get(language) or _same_language(texts, language) or first_text
        explanation = None if left_area or not new_texts else _body(text) or text.headline
        by_language[language] = {
            "title": _shorten(
                f"{_status_prefix(message.status)}{title}: {text.event}", MAX_TITLE_LENGTH, MAX_TITLE_OCTETS
            ),
            "body": _shorten(explanation or (left_area_text if left_area else ""), MAX_BODY_LENGTH, MAX_BODY_OCTETS),
        }
    content = by_language.get(base) or by_language.get(_primary(base)) or by_language["en"]
    if first_text.url:
        content = content | {"url": first_text.url}
    return _with_locales(content, by_language, base, tag)


def _with_locales(content: JsonObject, by_language: dict[str, JsonObject], base: str, tag: str | None) -> JsonObject:
    """Return the content with its tag, and with the translations by language tag and by primary subtag."""
    content = dict(content)
    if tag is not None:
        content["tag"] = tag
    locales = dict(by_language)
    for language, translation in by_language.items():
        locales.setdefault(_primary(language), translation)
    if "no" in locales:
        locales |= {name: locales["no"] for name in NORWEGIAN if name not in locales}
    if len(by_language) > 1:
        content["locales"] = {name: locales[name] for name in sorted(locales)[:MAX_LANGUAGES]}
    return content


def _localized_content(status: AlertStatus, text: LocalizedText) -> JsonObject:
    title = f"{_status_prefix(status)}{text.headline or text.event}"
    content = {
        "title": _shorten(title, MAX_TITLE_LENGTH, MAX_TITLE_OCTETS),
        "body": _shorten(_body(text), MAX_BODY_LENGTH, MAX_BODY_OCTETS),
    }
    return content | ({"url": text.url} if text.url else {})


def _status_prefix(status: AlertStatus) -> str:
    return "" if status is AlertStatus.ACTUAL else f"[{status}] "


def _body(text: LocalizedText) -> str:
    return "\n\n".join(part.strip() for part in (text.description, text.instruction) if part and part.strip())


def _language(text: LocalizedText) -> str:
    return text.language or "en"


def _primary(language: str) -> str:
    """Return the primary subtag of a language tag: `en` of `en-US`."""
    return language.replace("_", "-").partition("-")[0].lower()


def _same_language(texts: dict[str, LocalizedText], language: str) -> LocalizedText | None:
    return next((text for name, text in texts.items() if _primary(name) == _primary(language)), None)


def _shorten(text: str, max_characters: int, max_octets: int) -> str:
    if len(text) <= max_characters and len(text.encode("utf-8", "replace")) <= max_octets:
        return text
    octets = text[: max_characters - 1].encode("utf-8", "replace")[: max_octets - 3]
    return octets.decode("utf-8", "ignore").rstrip() + "…"
