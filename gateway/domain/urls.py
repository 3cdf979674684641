"""Validation of the URLs in a notification: links, icons and images."""

from urllib.parse import urlsplit

MAX_URL_LENGTH = 2048
# Characters that must be percent-encoded in a URL (RFC 3986 section 2).
FORBIDDEN_CHARACTERS = ' \\"<>^`{|}'


def find_url_error(url: str) -> str | None:
    """Return an error unless the text is an absolute http(s) URL or a path of the application."""
    try:
        parts = urlsplit(url)
        is_absolute = parts.scheme in ("http", "https") and bool(parts.hostname) and "%" not in parts.netloc
    except ValueError:
        is_absolute = False
    if is_absolute and "@" in parts.netloc:  # https://bank.example@evil.example opens evil.example
        return "must not contain a user name or password"
    is_path = url.startswith("/") and not url.startswith("//")
    if not (is_absolute or is_path) or not url.isprintable() or any(c in url for c in FORBIDDEN_CHARACTERS):
        return "must be an absolute https: or http: URL, or a path that begins with /"
    if len(url) > MAX_URL_LENGTH:
        return f"must have at most {MAX_URL_LENGTH} characters"
    return None
