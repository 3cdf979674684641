"""Structured logs: one event a line, everything in one shape, nothing secret in it.

Our own events and those of the libraries (aiohttp, alembic, asyncio) pass the same processors. Masking comes last
before rendering, when exceptions are already text, so that what an error message repeats is masked too.
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
MAX_DEPTH = 12  # nested values beyond this are masked whole

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

# What gives a secret away wherever it stands. RFC 7519: a JWT is three parts in base64url, the first an object.
_SECRETS_IN_TEXT = (
    (re.compile(r"\b(vapid\s+t=)[^\s,]+(,\s*k=[\w-]+)?", re.IGNORECASE), rf"\1{MASK}"),
    (re.compile(r"\b(bearer\s+)[^\s'\",]+", re.IGNORECASE), rf"\1{MASK}"),
    (re.compile(r"\b(sk|pk|dt|rt|whsec)_[A-Za-z0-9_+/=-]{20,}"), rf"\1_{MASK}"),
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}"), MASK),
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s:/@]*):[^\s/@]+@", re.IGNORECASE), rf"\1:{MASK}@"),
    # A long opaque part makes a URL one that whoever knows it may use: a push endpoint (RFC 8030 section 8.3).
    (
        re.compile(r"(\bhttps?://[^\s/\"'<>]+)/[^\s\"'<>]*[A-Za-z0-9_:%=-]{40,}[^\s\"'<>]*", re.IGNORECASE),
        rf"\1/{MASK}",
    ),
)
_ORIGIN = re.compile(r"(?P<origin>[a-z]+://(?:[^\s/@]*@)?[^\s/?#]*).*", re.IGNORECASE | re.DOTALL)


def configure(level: str, format: str = "auto") -> None:
    """Log to stderr from now on: `format` is `json`, `console`, or `auto` for console when stderr is a terminal."""
    for_people = format == "console" or (format == "auto" and sys.stderr.isatty())
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
                *(_for_people() if for_people else _for_programs()),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    logging.getLogger("alembic").setLevel(max(root.level, logging.WARNING))  # each of its steps is for developers
    logging.captureWarnings(capture=True)


def mask(_: Any, __: str, event: EventDict) -> EventDict:
    """Mask what is secret by its name or its look, at any depth; of a push endpoint only the origin stays."""
    return {name: _masked(value, str(name)) for name, value in event.items()}


def _for_people() -> list[Processor]:
    plain = structlog.dev.plain_traceback  # the default shows local variables, and secrets with them
    colours = sys.stderr.isatty()
    return [
        structlog.processors.format_exc_info,
        mask,
        structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=plain),
    ]


def _for_programs() -> list[Processor]:
    traceback = ExceptionRenderer(ExceptionDictTransformer(show_locals=False))
    return [traceback, mask, _in_order, structlog.processors.JSONRenderer(default=str)]


def _in_order(_: Any, __: str, event: EventDict) -> EventDict:
    """What every line has comes first."""
    return {name: event[name] for name in ("timestamp", "level", "event", "logger") if name in event} | dict(event)


def _masked(value: Any, name: str = "", depth: int = 0) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return MASK if _is_secret(name) and value is not None else value
    if _is_secret(name) or depth > MAX_DEPTH:
        return MASK
    match value:
        case str():
            return _origin(value) if _is_endpoint(name) else _without_secrets(value)
        case bytes():
            return f"{len(value)} octets"
        case Mapping():
            return {key: _masked(inner, str(key), depth + 1) for key, inner in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_masked(inner, name, depth + 1) for inner in value]
        case _:
            return _masked(str(value), name, depth + 1)


def _is_secret(name: str) -> bool:
    plain = name.lower().replace("-", "_")
    return plain in _SECRET_NAMES or plain.endswith(_SECRET_ENDINGS)


def _is_endpoint(name: str) -> bool:
    return name.lower().endswith(("endpoint", "endpoints"))


def _origin(url: str) -> str:
    found = _ORIGIN.fullmatch(url)
    return f"{_without_secrets(found['origin'])}/{MASK}" if found else MASK


@lru_cache(maxsize=1024)  # most of what a line says was said before: names, routes, methods
def _without_secrets(text: str) -> str:
    for pattern, replacement in _SECRETS_IN_TEXT:
        text = pattern.sub(replacement, text)
    return text
