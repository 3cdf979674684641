"""Encode jobs and results for a broker: one byte with the version, then MessagePack.

A worker must not misread a message of another version. Decoding such a message raises DecodeError, and the worker
returns it for workers of that version.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime
from functools import partial
from typing import Any
from uuid import UUID

import msgspec

from gateway.domain.delivery import (
    Accepted,
    Attempt,
    Cancelled,
    Deferred,
    DeliveryResult,
    Expired,
    Final,
    Gone,
    OutcomeName,
    Rejected,
    ResultBatch,
    Skipped,
)
from gateway.domain.job import Job, JobKind
from gateway.domain.job_payload import JobPayload, PreSendOutcome, Recipient, SigningKey
from gateway.domain.json_object import JsonObject
from gateway.domain.notification import Lane, Notification

# The version of the encoding. Version 3 added to recipients and results whether a push service has accepted the device.
VERSION = b"\x03"
# MessagePack has no integers of more than 64 bits. They become floats, limited to this absolute value.
MAX_FLOAT = 10**300


class DecodeError(Exception):
    """The message was written by another version, or not by the gateway."""


class _Outcome(msgspec.Struct, array_like=True, frozen=True):
    name: str
    cause: str = ""
    message: str | None = None
    ttl: int | None = None
    quarantine: bool = False
    until: datetime | None = None


class _Settled(msgspec.Struct, array_like=True, frozen=True):
    device_id: UUID
    user_id: str | None
    host: str
    outcome: _Outcome
    attempts: int
    status: int | None
    attempted_at: datetime | None
    duration_ms: int
    settled_at: datetime
    variant: int | None


class _Head(msgspec.Struct, array_like=True, frozen=True):
    """A job without its payload."""

    id: int
    kind: JobKind
    notification_id: UUID
    application_id: UUID
    lane: Lane
    lease_generation: int
    attempts: int
    day: date | None
    device_ids: tuple[UUID, ...]


class _Job(msgspec.Struct, array_like=True, frozen=True):
    head: _Head
    notification: Notification
    default_origin: str | None
    recipients: list[Recipient]
    keys: list[SigningKey]
    pre_send_outcomes: list[tuple[UUID, _Outcome]]
    template_context: list[tuple[UUID, JsonObject]]


class _Result(msgspec.Struct, array_like=True, frozen=True):
    head: _Head
    settled: list[_Settled]
    attempts: list[Attempt]
    requeued: list[tuple[datetime, int, list[UUID]]]
    retries: int
    remaining: list[UUID]
    returned: bool
    checks_failure_rate: bool
    newly_accepted: list[UUID]
    reaccepted: list[UUID]


class Result(msgspec.Struct, frozen=True):
    """A result of a job.

    `remaining`: the devices that have no result yet. `returned`: the worker returns the job to the database.
    `checks_failure_rate`: the notification has a failure limit, which the relay must check.
    """

    job: Job
    settlement: ResultBatch
    remaining: Sequence[UUID] = ()
    returned: bool = False
    checks_failure_rate: bool = False


def write_job(job: Job, payload: JobPayload) -> bytes:
    """Encode a job with its payload."""
    # An audience can be long, and only planning needs it.
    notification = replace(payload.notification, audience=None)
    packed = _Job(
        _head(job, job.device_ids),
        notification,
        payload.default_origin,
        [*payload.recipients],
        [*payload.keys],
        [(id_, _pack_outcome(outcome)) for id_, outcome in payload.pre_send_outcomes.items()],
        [(id_, dict(values)) for id_, values in payload.template_context.items()],
    )
    try:
        return VERSION + _encoder.encode(packed)
    except OverflowError:  # the content has an integer of more than 64 bits
        plain = msgspec.to_builtins(packed, builtin_types=(UUID, datetime, date, bytes), enc_hook=_to_builtin)
        return VERSION + _encoder.encode(_limit_integers(plain))


def read_job(data: bytes) -> Job:
    """Decode a job with its payload.

    Raises:
        DecodeError: the message has another version, or is not valid.
    """
    packed = _read(_jobs, data)
    payload = JobPayload(
        packed.notification,
        packed.default_origin,
        packed.recipients,
        packed.keys,
        {id_: _unpack_pre_send_outcome(outcome) for id_, outcome in packed.pre_send_outcomes},
        dict(packed.template_context),
    )
    return _job(packed.head, payload)


def write_result(result: Result) -> bytes:
    """Encode a result."""
    settlement = result.settlement
    settled = [
        _Settled(*delivery._replace(outcome=_pack_outcome(delivery.outcome)))  # type: ignore[arg-type]
        for delivery in settlement.settled
    ]
    requeued = [(due, attempts, device_ids) for (due, attempts), device_ids in settlement.requeued.items()]
    packed = _Result(
        _head(result.job, ()),
        settled,
        settlement.attempts,
        requeued,
        settlement.retries,
        [*result.remaining],
        result.returned,
        result.checks_failure_rate,
        settlement.newly_accepted,
        settlement.reaccepted,
    )
    return VERSION + _encoder.encode(packed)


def read_result(data: bytes) -> Result:
    """Decode a result.

    Raises:
        DecodeError: the message has another version, or is not valid.
    """
    packed = _read(_results, data)
    settlement = ResultBatch(
        [
            DeliveryResult(
                delivery.device_id,
                delivery.user_id,
                delivery.host,
                _unpack_final(delivery.outcome),
                delivery.attempts,
                delivery.status,
                delivery.attempted_at,
                delivery.duration_ms,
                delivery.settled_at,
                delivery.variant,
            )
            for delivery in packed.settled
        ],
        packed.attempts,
        {(due, attempts): device_ids for due, attempts, device_ids in packed.requeued},
        packed.retries,
        packed.newly_accepted,
        packed.reaccepted,
    )
    return Result(_job(packed.head), settlement, packed.remaining, packed.returned, packed.checks_failure_rate)


def _head(job: Job, device_ids: Sequence[UUID]) -> _Head:
    return _Head(
        job.id,
        job.kind,
        job.notification_id,
        job.application_id,
        job.lane,
        job.lease_generation,
        job.attempts,
        job.day,
        tuple(device_ids),
    )


def _job(head: _Head, payload: JobPayload | None = None) -> Job:
    fields = {name: getattr(head, name) for name in _Head.__struct_fields__}
    return Job(**fields, payload=payload)


def _read(decoder: "msgspec.msgpack.Decoder[Any]", data: bytes) -> Any:
    if data[:1] != VERSION:
        raise DecodeError(
            f"wire version {data[0] if data else None} is not supported; this gateway reads version {VERSION[0]}: "
            "upgrade all workers and relays"
        )
    try:
        return decoder.decode(memoryview(data)[1:])
    except (msgspec.DecodeError, ValueError) as error:
        raise DecodeError(str(error)) from None


def _pack_outcome(outcome: Final | Deferred) -> _Outcome:
    match outcome:
        case Accepted(message, ttl, cause):
            return _Outcome(outcome.name.value, cause, message, ttl)
        case Rejected(cause, quarantine):
            return _Outcome(outcome.name.value, cause, quarantine=quarantine)
        case Deferred(until):
            return _Outcome(outcome.name, until=until)
        case _:
            return _Outcome(outcome.name.value, outcome.cause)


# The final outcomes that have only a cause, by name.
_OUTCOMES_WITH_CAUSE: Mapping[str, Any] = {
    OutcomeName.GONE: Gone,
    OutcomeName.EXPIRED: Expired,
    OutcomeName.CANCELLED: Cancelled,
    OutcomeName.SKIPPED: Skipped,
}


def _unpack_final(packed: _Outcome) -> Final:
    if packed.name == OutcomeName.ACCEPTED:
        return Accepted(packed.message, packed.ttl, packed.cause)
    if packed.name == OutcomeName.REJECTED:
        return Rejected(packed.cause, packed.quarantine)
    outcome: Final = _OUTCOMES_WITH_CAUSE[packed.name](packed.cause)
    return outcome


def _unpack_pre_send_outcome(packed: _Outcome) -> PreSendOutcome:
    if packed.until is not None:
        return Deferred(packed.until)
    outcome: PreSendOutcome = _unpack_final(packed)  # type: ignore[assignment] # a PreSendOutcome was packed
    return outcome


def _limit_integers(value: Any) -> Any:
    """Replace integers of more than 64 bits by floats."""
    match value:
        case int() if not -(2**63) <= value < 2**63:
            return float(max(-MAX_FLOAT, min(value, MAX_FLOAT)))
        case dict():
            return {name: _limit_integers(item) for name, item in value.items()}
        case list() | tuple():
            return [_limit_integers(item) for item in value]
        case _:
            return value


def _to_builtin(value: Any) -> Any:
    """Convert types of the database driver, which msgspec does not know."""
    if isinstance(value, UUID):
        return value.bytes
    raise NotImplementedError(type(value).__name__)


_encoder = msgspec.msgpack.Encoder(uuid_format="bytes", enc_hook=_to_builtin)
_decoder = partial(msgspec.msgpack.Decoder, strict=True)
_jobs: "msgspec.msgpack.Decoder[_Job]" = _decoder(_Job)
_results: "msgspec.msgpack.Decoder[_Result]" = _decoder(_Result)
