"""What an alert says on a screen, in every language it comes in.

Which language a device is shown is looked up by its locale when it is sent to (RFC 4647 section 3.4). An issuer's
`es-US` serves everyone who reads Spanish, unless it also says `es`.
"""

from collections.abc import Sequence
from typing import Any

from gateway.domain.alert import AlertInfo, AlertMessage, AlertRouting, AlertStatus, LocalizedText
from gateway.domain.notification import Lane

MAX_TITLE_LENGTH = 200
MAX_BODY_LENGTH = 1000  # characters; Android shows fewer, and Mozilla's Android bridge takes about 3,070 octets in all
TITLE_OCTETS = 400
BODY_OCTETS = 2200
MAX_LANGUAGES = 90

WITHDRAWN = {
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
"""By language: the title of what takes an alert back, and why those get it who are no longer in its area."""

NORWEGIAN = ("nb", "nn")


def alert_content(message: AlertMessage, part: AlertInfo, way: AlertRouting, tag: str | None) -> dict[str, Any]:
    """Content that tells a part, in its languages."""
    spoken = {_language(words): _told(message.status, words) for words in part.texts}
    first = part.texts[0]
    content = spoken[_language(first)] | {
        "require_interaction": way.lane is Lane.URGENT,
        "data": {"alert": {"event": first.event, "severity": part.severity, "urgency": part.urgency}},
    }
    return _content(content, spoken, _language(first), tag)


def cancellation_content(
    message: AlertMessage, before: Sequence[LocalizedText], tag: str, *, left: bool
) -> dict[str, Any]:
    """Content that takes an alert back. `left`: for those who are no longer in the area of what replaced it.

    `before` is what the alert said when it was told: where this message says nothing in a language, that is named.
    """
    said = message.infos[0].texts if message.infos else ()
    named = {_language(words): words for words in (*before, *said)}
    first = (*said, *before)[0] if said or before else LocalizedText(None, message.identifier or "Alert")
    base = _language(first) or "en"
    spoken = {}
    for language in {*WITHDRAWN, *(language for language in named if _primary(language) in WITHDRAWN)}:
        title, reason = WITHDRAWN[_primary(language)]
        words = named.get(language) or _same_language(named, language) or first
        told = None if left or not said else _body(words) or words.headline
        spoken[language] = {
            "title": _shortened(f"{_mark(message.status)}{title}: {words.event}", MAX_TITLE_LENGTH, TITLE_OCTETS),
            "body": _shortened(told or (reason if left else ""), MAX_BODY_LENGTH, BODY_OCTETS),
        }
    content = spoken.get(base) or spoken.get(_primary(base)) or spoken["en"]
    if first.url:
        content = content | {"url": first.url}
    return _content(content, spoken, base, tag)


def _content(content: dict[str, Any], spoken: dict[str, dict[str, Any]], base: str, tag: str | None) -> dict[str, Any]:
    content = dict(content)
    if tag is not None:
        content["tag"] = tag
    locales = dict(spoken)
    for language, said in spoken.items():
        locales.setdefault(_primary(language), said)
    if "no" in locales:
        locales |= {name: locales["no"] for name in NORWEGIAN if name not in locales}
    if len(spoken) > 1:
        content["locales"] = {name: locales[name] for name in sorted(locales)[:MAX_LANGUAGES]}
    return content


def _told(status: AlertStatus, words: LocalizedText) -> dict[str, Any]:
    title = f"{_mark(status)}{words.headline or words.event}"
    said = {
        "title": _shortened(title, MAX_TITLE_LENGTH, TITLE_OCTETS),
        "body": _shortened(_body(words), MAX_BODY_LENGTH, BODY_OCTETS),
    }
    return said | ({"url": words.url} if words.url else {})


def _mark(status: AlertStatus) -> str:
    return "" if status is AlertStatus.ACTUAL else f"[{status}] "


def _body(words: LocalizedText) -> str:
    return "\n\n".join(part.strip() for part in (words.description, words.instruction) if part and part.strip())


def _language(words: LocalizedText) -> str:
    return words.language or "en"


def _primary(language: str) -> str:
    return language.replace("_", "-").partition("-")[0].lower()


def _same_language(named: dict[str, LocalizedText], language: str) -> LocalizedText | None:
    return next((words for name, words in named.items() if _primary(name) == _primary(language)), None)


def _shortened(text: str, limit: int, octets: int) -> str:
    if len(text) <= limit and len(text.encode("utf-8", "replace")) <= octets:
        return text
    return text[: limit - 1].encode("utf-8", "replace")[: octets - 3].decode("utf-8", "ignore").rstrip() + "…"
