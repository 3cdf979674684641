"""Logs: one JSON line an event on stderr, or a readable one on a terminal. Nothing secret is ever in them.

Everything that Python's own logging says (aiohttp, alembic, asyncio) goes the same way.
"""

import logging
import re
import sys
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import structlog
from structlog.types import EventDict, Processor, WrappedLogger

MASK = "***"

# Whatever goes by such a name is not shown, whatever it is.
SECRET_NAMES = re.compile(
    r"(^|_)(authorization|token|secret|password|passphrase|auth|p256dh|private_key|master_key|api_key|user_hash)($|_)",
    re.IGNORECASE,
)
# Keys and tokens of ours, signed headers, and passwords in URLs, wherever they turn up in a text.
SECRET_TEXTS = (
    (re.compile(r"\b(sk|pk|dt|is)_[A-Za-z0-9_-]{16,}"), r"\1_" + MASK),
    (re.compile(r"\b(vapid t=|Bearer |WebPush )[A-Za-z0-9._~+/=-]+", re.IGNORECASE), r"\1" + MASK),
    (re.compile(r"(://[^:/@\s]+:)[^@/\s]+@"), r"\1" + MASK + "@"),
)


def configure(level: str, format_: str = "auto") -> None:
    """`level`: debug, info, warning, error. `format_`: json, console, or auto by what stderr is."""
    readable = format_ == "console" or (format_ == "auto" and sys.stderr.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[Processor]
    if readable:
        last = [mask, structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
    else:
        traces = structlog.processors.ExceptionRenderer(
            structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        )
        last = [traces, mask, structlog.processors.JSONRenderer(default=str)]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*shared, structlog.stdlib.PositionalArgumentsFormatter()],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    # What Alembic says of every migration is for developers.
    logging.getLogger("alembic").setLevel(max(logging.WARNING, root.level))
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def mask(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Take out what is secret, by the name it goes by and by what it looks like."""
    return {name: _masked(name, value) for name, value in event.items()}


def _masked(name: str, value: Any) -> Any:
    match value:
        case str() if name == "endpoint":
            return f"{urlsplit(value).scheme}://{urlsplit(value).netloc}/{MASK}"  # whoever has the path can push to it
        case str() | bytes() if SECRET_NAMES.search(name):
            return MASK
        case str():
            for pattern, instead in SECRET_TEXTS:
                value = pattern.sub(instead, value)
            return value
        case Mapping():
            return {key: _masked(str(key), item) for key, item in value.items()}
        case list() | tuple():
            return [_masked(name, item) for item in value]
        case _:
            return value
