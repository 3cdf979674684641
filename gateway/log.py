"""Structured logging: one event per line, the same fields for every component, no secrets.

Events of the gateway and of libraries (aiohttp, alembic, asyncio) go through the same processors. Secrets are masked in
the last step before rendering. Exceptions are text by then, so secrets in error messages are masked too.
"""

import logging
import re
import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import structlog
from structlog.processors import ExceptionRenderer
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import EventDict, Processor

MASK = "***"
# Values that are nested deeper than this are masked.
MAX_DEPTH = 12

_SECRET_NAMES = {
    *(
        "authorization",
        "proxy_authorization",
        "bearer",
        "cookie",
        "set_cookie",
        "token",
        "secret",
        "password",
        "passwd",
    ),
    *("auth", "p256dh", "private_key", "secret_key", "api_key", "master_key", "signing_key", "publishable_key"),
}
_SECRET_ENDINGS = ("_token", "_secret", "_password", "_private_key", "_api_key", "_secret_key")

# Patterns of secrets in any text, with their replacements. A JWT (RFC 7519) consists of three base64url parts. The
# first is a JSON object, so it begins with `eyJ`.
_SECRETS_IN_TEXT = (
    (re.compile(r"\b(vapid\s+t=)[^\s,]+(,\s*k=[\w-]+)?", re.IGNORECASE), rf"\1{MASK}"),
    (re.compile(r"\b(bearer\s+)[^\s'\",]+", re.IGNORECASE), rf"\1{MASK}"),
    (re.compile(r"\b(sk|pk|dt|rt|whsec)_[A-Za-z0-9_+/=-]{20,}"), rf"\1_{MASK}"),
    # Session tokens and identity secrets: exactly 256 bits in base64url, since names in code begin with `is_` too.
    (re.compile(r"\b(ss|is)_[A-Za-z0-9_-]{43}(?![A-Za-z0-9_-])"), rf"\1_{MASK}"),
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}"), MASK),
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s:/@]*):[^\s/@]+@", re.IGNORECASE), rf"\1:{MASK}@"),
    # A URL with a long opaque part is a capability URL, such as a push endpoint (RFC 8030 section 8.3).
    (
        re.compile(r"(\bhttps?://[^\s/\"'<>]+)/[^\s\"'<>]*[A-Za-z0-9_:%=-]{40,}[^\s\"'<>]*", re.IGNORECASE),
        rf"\1/{MASK}",
    ),
)
_ORIGIN = re.compile(r"(?P<origin>[a-z]+://(?:[^\s/@]*@)?[^\s/?#]*).*", re.IGNORECASE | re.DOTALL)


def configure(level: str, format: str = "auto") -> None:
    """Configure structlog and logging to write to stderr.

    Args:
        level: the minimum level of events.
        format: `json`, `console` for people, or `auto`, which selects `console` if stderr is a terminal.
    """
    is_console = format == "console" or (format == "auto" and sys.stderr.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *(_console_processors() if is_console else _json_processors()),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    logging.getLogger("alembic").setLevel(max(root.level, logging.WARNING))  # its info events are for developers
    logging.captureWarnings(capture=True)


def mask(_: Any, __: str, event: EventDict) -> EventDict:
    """Mask values that have the name or the form of a secret, at any depth. A push endpoint is cut to its origin."""
    return {name: _mask_value(value, str(name)) for name, value in event.items()}


def _console_processors() -> list[Processor]:
    plain = structlog.dev.plain_traceback  # the default prints local variables, which may be secrets
    colours = sys.stderr.isatty()
    return [
        structlog.processors.format_exc_info,
        mask,
        structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=plain),
    ]


def _json_processors() -> list[Processor]:
    traceback = ExceptionRenderer(ExceptionDictTransformer(show_locals=False))
    return [traceback, mask, _order_fields, structlog.processors.JSONRenderer(default=str)]


def _order_fields(_: Any, __: str, event: EventDict) -> EventDict:
    """Put the fields that all events have at the beginning of the line."""
    return {name: event[name] for name in ("timestamp", "level", "event", "logger") if name in event} | dict(event)


def _mask_value(value: Any, name: str = "", depth: int = 0) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return MASK if _is_secret(name) and value is not None else value
    if _is_secret(name) or depth > MAX_DEPTH:
        return MASK
    match value:
        case str():
            return _origin(value) if _is_endpoint(name) else _mask_text(value)
        case bytes():
            return f"{len(value)} bytes"
        case Mapping():
            return {key: _mask_value(inner, str(key), depth + 1) for key, inner in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_mask_value(inner, name, depth + 1) for inner in value]
        case _:
            return _mask_value(str(value), name, depth + 1)


def _is_secret(name: str) -> bool:
    normalized = name.lower().replace("-", "_")
    return normalized in _SECRET_NAMES or normalized.endswith(_SECRET_ENDINGS)


def _is_endpoint(name: str) -> bool:
    return name.lower().endswith(("endpoint", "endpoints"))


def _origin(url: str) -> str:
    match = _ORIGIN.fullmatch(url)
    return f"{_mask_text(match['origin'])}/{MASK}" if match else MASK


@lru_cache(maxsize=1024)  # many texts recur, such as routes and methods
def _mask_text(text: str) -> str:
    for pattern, replacement in _SECRETS_IN_TEXT:
        text = pattern.sub(replacement, text)
    return text
