"""The encoding of broker messages: results are decoded unchanged, and messages of unsupported versions are refused."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from gateway.domain.delivery import Accepted, Attempt, DeliveryResult, Gone, Rejected, ResultBatch
from gateway.domain.job import Job, JobKind
from gateway.domain.notification import Lane
from gateway.queue import wire

NOW = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
DEVICES = [UUID(int=number) for number in range(5)]
JOB = Job(7, JobKind.SEND, UUID(int=10), UUID(int=11), Lane.BULK, 3, 2, NOW.date(), ())


def delivery(device_id: UUID, outcome: Accepted | Gone | Rejected) -> DeliveryResult:
    return DeliveryResult(device_id, "user", "push.example", outcome, 3, 201, NOW, 15, NOW, 1)


def test_decoded_result_equals_the_encoded_result() -> None:
    """A decoded result has all fields of the encoded result: outcomes, retries and flags."""
    due = NOW + timedelta(minutes=1)
    batch = ResultBatch(
        [
            delivery(DEVICES[0], Accepted("https://push.example/m/1", 60, "")),
            delivery(DEVICES[1], Gone("unsubscribed")),
            delivery(DEVICES[2], Rejected("the key does not match", quarantine=True)),
        ],
        [Attempt(DEVICES[3], 3, NOW, 20, 503, "busy", due)],
        {(due, 3): [DEVICES[3]]},
        1,
        [DEVICES[0]],
        [DEVICES[1]],
    )
    result = wire.Result(JOB, batch, [DEVICES[4]], returned=True, checks_failure_rate=True)
    assert wire.read_result(wire.write_result(result)) == result


@pytest.mark.parametrize("version", [b"\x02", b"\x04", b""])
def test_message_of_unsupported_version_is_refused(version: bytes) -> None:
    """The error names the version of the message and the supported version."""
    data = version and version + wire.write_result(wire.Result(JOB, ResultBatch()))[1:]
    for read in (wire.read_job, wire.read_result):
        with pytest.raises(wire.DecodeError, match=r"wire version .* is not supported; this gateway reads version 3"):
            read(data)


def test_message_with_invalid_content_is_refused() -> None:
    """A message with the right version but invalid content raises DecodeError."""
    for data in (wire.VERSION, wire.VERSION + b"\xc1", wire.VERSION + b"\x90"):
        with pytest.raises(wire.DecodeError):
            wire.read_result(data)
