"""Localisation: which texts of a content with texts in several languages a device gets."""

import pytest

from gateway.content.localisation import all_layers, localise, matching_layers

CONTENT = {
    "title": "Storm",
    "body": "Stay inside",
    "locales": {"de": {"title": "Sturm"}, "de-AT": {"body": "Bleibt's drin"}, "zh_Hant": {"title": "風暴"}},
}


@pytest.mark.parametrize(
    ("locale", "keys", "title", "body"),
    [
        ("de-AT", ("de", "de-AT"), "Sturm", "Bleibt's drin"),
        ("de_at", ("de", "de-AT"), "Sturm", "Bleibt's drin"),
        ("de-CH", ("de",), "Sturm", "Stay inside"),
        ("DE", ("de",), "Sturm", "Stay inside"),
        ("zh-Hant-TW", ("zh_Hant",), "風暴", "Stay inside"),
        ("zh-Hans", (), "Storm", "Stay inside"),
        ("den", (), "Storm", "Stay inside"),
        ("", (), "Storm", "Stay inside"),
        (None, (), "Storm", "Stay inside"),
    ],
)
def test_locale_gets_the_most_specific_texts(locale: str | None, keys: tuple[str, ...], title: str, body: str) -> None:
    """A field without a text for the locale has the text of the language, or else the default text."""
    device_layers = matching_layers(CONTENT, locale)
    assert device_layers == keys
    assert localise(CONTENT, device_layers) == {"title": title, "body": body}


def test_content_without_locales_has_one_layer() -> None:
    """Content without `locales` is returned unchanged for every locale."""
    assert matching_layers({"title": "t"}, "de") == ()
    assert localise({"title": "t"}, ()) == {"title": "t"}
    assert all_layers({"title": "t"}) == [()]


def test_all_layers_cover_every_language() -> None:
    """The result has each tuple of keys of `locales` that a device's locale can select."""
    assert set(all_layers(CONTENT)) == {(), ("de",), ("de", "de-AT"), ("zh_Hant",)}
