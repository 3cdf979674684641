"""Structured logging: one JSON line per event of the gateway and of libraries, with secrets masked."""

import json
import logging
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import structlog

from gateway import log

SECRET_KEY = "sk_" + "x0_-Aa9" * 6
PATH = "/fcm/send/" + "c0ffee:APA91b" * 6


@pytest.fixture(autouse=True)
def restore_logging() -> Iterator[None]:
    """Undo the configuration of logging and structlog after each test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Callable[[], list[dict[str, Any]]]:
    """Return a function that reads the JSON lines written to stderr since its previous call."""
    return lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]


Lines = Callable[[], list[dict[str, Any]]]


def test_event_is_one_json_line_with_bound_fields(lines: Lines) -> None:
    """The line has the time, level, event and logger first, then the bound fields and the arguments of the call."""
    log.configure("info", "json")
    with structlog.contextvars.bound_contextvars(request_id="req_1"):
        structlog.get_logger("gateway.web").info("request.done", status=201, detail="two\nlines")
    [line] = lines()
    assert list(line)[:4] == ["timestamp", "level", "event", "logger"]
    timestamp = datetime.fromisoformat(line.pop("timestamp"))
    assert timestamp.utcoffset() == timedelta(0)
    assert line == {
        "event": "request.done",
        "level": "info",
        "logger": "gateway.web",
        "request_id": "req_1",
        "status": 201,
        "detail": "two\nlines",
    }


def test_values_unknown_to_json_are_written_as_text(lines: Lines) -> None:
    """A UUID, a duration and a set are converted; octets are replaced by their number."""
    log.configure("info", "json")
    structlog.get_logger().info("odd", id=UUID(int=1), wait=timedelta(seconds=5), names={"a"}, body=b"\xff\x00")
    [line] = lines()
    assert line["id"] == "00000000-0000-0000-0000-000000000001"
    assert (line["wait"], line["names"], line["body"]) == ("0:00:05", ["a"], "2 bytes")


def test_event_below_the_level_is_dropped(lines: Lines) -> None:
    """At level info, debug events of the gateway and of libraries are dropped."""
    log.configure("info", "json")
    structlog.get_logger().debug("fine.grained")
    logging.getLogger("asyncio").debug("fine grained")
    assert lines() == []


def test_library_events_have_the_same_fields(lines: Lines) -> None:
    """An event of a library is formatted and masked like an event of the gateway."""
    log.configure("info", "json")
    with structlog.contextvars.bound_contextvars(request_id="req_1"):
        logging.getLogger("aiohttp.server").warning("refused %s with %s", "127.0.0.1", f"Bearer {SECRET_KEY}")
    [line] = lines()
    assert line["event"] == "refused 127.0.0.1 with Bearer ***"
    assert (line["level"], line["logger"], line["request_id"]) == ("warning", "aiohttp.server", "req_1")
    assert "timestamp" in line


def fail_with(secret: str) -> None:
    """Raise an error from a frame with a local variable that contains a secret."""
    local = secret
    raise ValueError(f"cannot reach postgresql://me:{local}@db/x")


@pytest.mark.parametrize("logger", [structlog.get_logger("gateway"), logging.getLogger("library")])
def test_json_exception_has_no_local_variables(logger: Any, lines: Lines) -> None:
    """The trace has the frames and the masked message of the exception."""
    log.configure("info", "json")
    try:
        fail_with("hidden")
    except ValueError:
        logger.exception("it.failed")
    [line] = lines()
    [trace] = line["exception"]
    assert trace["exc_type"] == "ValueError"
    assert trace["exc_value"] == "cannot reach postgresql://me:***@db/x"
    assert [frame["name"] for frame in trace["frames"]][-1] == "fail_with"
    assert "hidden" not in json.dumps(line)


def test_console_exception_has_no_local_variables(capsys: pytest.CaptureFixture[str]) -> None:
    """In the console format, the trace has the frames and the masked message of the exception."""
    log.configure("info", "console")
    try:
        fail_with("hidden")
    except ValueError:
        structlog.get_logger("gateway").exception("it.failed", token="hidden")
    output = capsys.readouterr().err
    assert "it.failed" in output
    assert "in fail_with" in output
    assert "cannot reach postgresql://me:***@db/x" in output
    assert "local = secret" not in output


def test_auto_format_is_json_unless_stderr_is_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the format auto, a pipe gets JSON and a terminal gets text."""
    log.configure("info", "auto")
    structlog.get_logger().info("for.programs")
    assert json.loads(capsys.readouterr().err)["event"] == "for.programs"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    log.configure("info", "auto")
    structlog.get_logger().info("for.people")
    assert not capsys.readouterr().err.startswith("{")


SECRET_NAMES = (
    *("authorization", "Authorization", "token", "device_token", "client_secret", "password", "auth", "p256dh"),
    *("private_key", "vapid_private_key", "api_key", "X-Api-Key", "secret_key", "master_key", "Set-Cookie"),
)


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_value_with_a_secret_name_is_masked(name: str) -> None:
    """The value is masked at any depth of an event."""
    masked = log.mask(None, "info", {"event": "x", name: "hidden", "nested": {"deep": [{name: "hidden"}]}})
    assert "hidden" not in str(masked)


@pytest.mark.parametrize("name", ["author", "tokens_left", "idempotency_key", "job_id", "vapid_public_key"])
def test_name_that_resembles_a_secret_is_not_masked(name: str) -> None:
    """A name that only contains the name of a secret keeps its value."""
    assert log.mask(None, "info", {"event": "x", name: "seen"})[name] == "seen"


def test_secret_that_is_none_stays_none() -> None:
    """None is not masked, so that a log shows that a secret is missing."""
    assert log.mask(None, "info", {"event": "x", "token": None})["token"] is None


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        (f"key {SECRET_KEY} is unknown", "key sk_*** is unknown"),
        (f"signed with whsec_{'aB+/' * 10}a==", "signed with whsec_***"),
        (f"pk_{'a' * 24}", "pk_***"),
        (f"dt_{'A-_9' * 12}", "dt_***"),
        (f"/v1/receipts?token=rt_{'a' * 40}", "/v1/receipts?token=rt_***"),
        ("vapid t=eyJ0.eyJh.c2ln, k=BA1Hxzyi1RUM", "vapid t=***"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        (f"jwt eyJ0eXAiOiJKV1QiLCJh.{'a' * 20}.{'b' * 20} seen", "jwt *** seen"),
        ("postgresql://me:p%40ss@db:5432/x", "postgresql://me:***@db:5432/x"),
        (f"POST https://fcm.googleapis.com{PATH} timed out", "POST https://fcm.googleapis.com/*** timed out"),
        (
            f"at 'https://wns2-am3p.notify.windows.com/w/?token={'B' * 50}%3d'",
            "at 'https://wns2-am3p.notify.windows.com/***'",
        ),
        ("see https://example.org/news/2026/storm-warning", "see https://example.org/news/2026/storm-warning"),
        ("constraint pk_devices violated", "constraint pk_devices violated"),
        ("http://127.0.0.1:8080/v1/alerts", "http://127.0.0.1:8080/v1/alerts"),
    ],
)
def test_secret_is_masked_by_its_form_in_any_text(text: str, masked: str) -> None:
    """A key, password or endpoint is recognised in the text of an event and in nested values; other text stays."""
    assert log.mask(None, "info", {"event": text, "nested": [text]}) == {"event": masked, "nested": [masked]}


def test_endpoint_keeps_only_its_origin() -> None:
    """A field named endpoint is masked whatever its length, because anyone who has an endpoint can post to it."""
    masked = log.mask(
        None,
        "info",
        {
            "event": "x",
            "endpoint": f"https://fcm.googleapis.com{PATH}",
            "old_endpoint": "https://push.example.org:8443/a?b",
            "endpoints": ["http://127.0.0.1:9090/p/1", "no url"],
        },
    )
    assert masked == {
        "event": "x",
        "endpoint": "https://fcm.googleapis.com/***",
        "old_endpoint": "https://push.example.org:8443/***",
        "endpoints": ["http://127.0.0.1:9090/***", "***"],
    }


def test_self_containing_value_is_masked() -> None:
    """Masking a list that contains itself raises no RecursionError."""
    loop: list[object] = []
    loop.append(loop)
    assert "***" in str(log.mask(None, "info", {"event": "x", "loop": loop}))
