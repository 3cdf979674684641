"""The addresses that a notification may lead to or load from."""

from urllib.parse import urlsplit

MAX_URL_LENGTH = 2048
FORBIDDEN_CHARACTERS = ' \\"<>^`{|}'
"""What no URL holds as it is (RFC 3986 section 2)."""


def find_url_error(url: str) -> str | None:
    """What is wrong with it as an absolute http(s) URL or a path of the application's own; None when nothing is."""
    try:
        parts = urlsplit(url)
        absolute = parts.scheme in ("http", "https") and bool(parts.hostname) and "%" not in parts.netloc
    except ValueError:
        absolute = False
    own = url.startswith("/") and not url.startswith("//")
    if not (absolute or own) or not url.isprintable() or any(c in url for c in FORBIDDEN_CHARACTERS):
        return "must be an absolute https: or http: address, or a path that begins with /"
    if len(url) > MAX_URL_LENGTH:
        return f"must have at most {MAX_URL_LENGTH} characters"
    return None
