"""Search every log line of the tests for secrets.

The guard learns secrets where they are created: random tokens, device and receipt tokens, private keys, endpoints, and
the text of messages. It compares the tokens of a line with the set of learned tokens, so the cost of a line does not
depend on the number of secrets. Secrets of other processes are recognised by their form.
"""

import json
import logging
import re
import secrets
import sys
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import structlog

from gateway import log
from gateway.push.vapid import VapidKey
from gateway.service.access.secrets import Keyring
from gateway.service.notifications.rendering import NotificationRenderer

# The forms of keys, tokens and the last path segment of endpoints. Ids have these forms too, but are never learned.
TOKEN_PATTERNS = (re.compile(r"[A-Za-z0-9_-]{16,}"), re.compile(r"[A-Za-z0-9+/]{20,}"))
# Forms of secrets that another process created, which the guard cannot learn.
SECRET_PATTERNS = (
    re.compile(r"\b(?:sk|pk|dt|rt|is|whsec)_[A-Za-z0-9_+/-]{30,}"),
    re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}"),
    re.compile(r"\bhttps?://[^\s\"'<>]*/[A-Za-z0-9_:%=-]{40,}"),
    re.compile(r"\bpostgres(?:ql)?://[^\s:/@]*:(?!\*\*\*)[^\s/@]+@"),
    re.compile(r"BEGIN (?:EC )?PRIVATE KEY"),
)
# Shorter titles and bodies, such as 'Hello', occur in unrelated log lines.
MIN_MESSAGE_LENGTH = 10


class SecretInLog(AssertionError):
    """A log line contains a secret."""


class Guard:
    """The learned secrets and the log lines that have not been checked yet."""

    def __init__(self) -> None:
        self._tokens: set[str] = set()
        self._messages: set[str] = set()
        self._lines: list[str] = []

    @property
    def pending_lines(self) -> tuple[str, ...]:
        """The lines that have not been checked yet."""
        return tuple(self._lines)

    def learn(self, secret: str | bytes) -> None:
        """Learn a secret; bytes are learned in each encoding in which they might be logged."""
        forms = [secret] if isinstance(secret, str) else _encodings(secret)
        self._tokens.update(token for form in forms for pattern in TOKEN_PATTERNS for token in pattern.findall(form))

    def learn_message(self, payload: bytes) -> None:
        """Learn the title and body of a notification payload."""
        notification = json.loads(payload)["notification"]
        texts = (notification.get("title"), notification.get("body"))

        self._messages.update(text for text in texts if isinstance(text, str) and len(text) >= MIN_MESSAGE_LENGTH)

    def record(self, text: str) -> None:
        """Add log output to the lines to be checked."""
        self._lines.extend(text.splitlines())

    def clear(self) -> None:
        """Discard the lines to be checked."""
        self._lines.clear()

    def check(self) -> None:
        """Check the lines that were recorded since the last check.

        Raises:
            SecretInLog: a line contains a secret.
        """
        lines, self._lines = self._lines, []
        for line in lines:
            if secret := self._find_secret(line):
                raise SecretInLog(f"{secret!r} is in a log line: {line}")

    def _find_secret(self, line: str) -> str | None:
        for pattern in TOKEN_PATTERNS:
            if tokens := self._tokens.intersection(pattern.findall(line)):
                return tokens.pop()
        for pattern in SECRET_PATTERNS:
            if (match := pattern.search(line)) is not None:
                return match[0]
        return next((message for message in self._messages if message in line), None)


class _GuardHandler(logging.Handler):
    """Writes log lines to stderr and records them."""

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record)
        print(line, file=sys.stderr)
        guard.record(line)


# The guard of this process; each process of a parallel test run has its own.
guard = Guard()


def install_handler() -> None:
    """Configure logging as the gateway does, with the guard as the handler."""
    if structlog.is_configured():
        return
    other_handlers = [handler for handler in logging.getLogger().handlers if not isinstance(handler, _GuardHandler)]
    log.configure("info", "json")
    logging.captureWarnings(capture=False)  # pytest captures warnings itself
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)  # written by the HTTP servers of tests only
    [configured] = logging.getLogger().handlers
    handler = _GuardHandler()
    handler.setFormatter(configured.formatter)
    logging.getLogger().handlers = [*other_handlers, handler]


@contextmanager
def without_masking() -> Iterator[None]:
    """Write log lines with unmasked secrets until the context ends."""
    [handler] = [handler for handler in logging.getLogger().handlers if isinstance(handler, _GuardHandler)]
    masking_formatter = handler.formatter
    renderer = structlog.processors.JSONRenderer(default=str)
    processors = [structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer]
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processors=processors))
    try:
        yield
    finally:
        handler.setFormatter(masking_formatter)


@contextmanager
def learn_secrets() -> Iterator[None]:
    """Learn every secret where it is created, until the context ends."""
    with pytest.MonkeyPatch.context() as patch:
        for source in ("token_urlsafe", "token_bytes"):
            patch.setattr(secrets, source, _learning_results(getattr(secrets, source)))
        patch.setattr(Keyring, "issue_device_token", _learning_results(Keyring.issue_device_token))
        patch.setattr(Keyring, "issue_receipt_token", _learning_results(Keyring.issue_receipt_token))
        patch.setattr(VapidKey, "private_bytes", _learning_results(VapidKey.private_bytes))
        render = NotificationRenderer.render_payload

        def render_and_learn(self: NotificationRenderer, *args: Any) -> tuple[bytes, str]:
            payload, topic = render(self, *args)
            guard.learn_message(payload)
            return payload, topic

        patch.setattr(NotificationRenderer, "render_payload", render_and_learn)
        yield


def _learning_results(create: Callable[..., Any]) -> Callable[..., Any]:
    def create_and_learn(*args: Any, **kwargs: Any) -> Any:
        secret = create(*args, **kwargs)
        guard.learn(secret)
        return secret

    return create_and_learn


def _encodings(octets: bytes) -> list[str]:
    return [octets.hex(), b64encode(octets).decode(), urlsafe_b64encode(octets).rstrip(b"=").decode(), repr(octets)]
