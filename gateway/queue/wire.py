"""Jobs and results as they travel through a broker: MessagePack, with a version in front.

A worker of another version must not take a job for something it is not: what it cannot read it leaves to others.
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
from gateway.domain.notification import Lane, Notification

# Version 2: jobs and results carry `payload`, `lease_generation` and `attempts` under these names.
VERSION = b"\x02"
MAX_FLOAT = 10**300


class DecodeError(Exception):
    """It was written by another version, or is none of ours."""


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
    """A job without its cargo."""

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
    template_context: list[tuple[UUID, dict[str, Any]]]


class _Result(msgspec.Struct, array_like=True, frozen=True):
    head: _Head
    settled: list[_Settled]
    attempts: list[Attempt]
    later: list[tuple[datetime, int, list[UUID]]]
    retries: int
    remaining: list[UUID]
    returned: bool
    checks_failure_rate: bool


class Result(msgspec.Struct, frozen=True):
    """What a worker says of its job. `remaining`: the devices still to be sent to; `returned`: by somebody else.

    `judged`: its notification pauses itself when too much of it fails.
    """

    job: Job
    settlement: ResultBatch
    remaining: Sequence[UUID] = ()
    returned: bool = False
    checks_failure_rate: bool = False


def write_job(job: Job, cargo: JobPayload) -> bytes:
    notification = replace(cargo.notification, audience=None)  # it can be long, and planning was the last to read it
    verdicts = [(id_, _shown(verdict)) for id_, verdict in cargo.pre_send_outcomes.items()]
    known = [(id_, dict(said)) for id_, said in cargo.template_context.items()]
    packed = _Job(
        _head(job, job.device_ids),
        notification,
        cargo.default_origin,
        [*cargo.recipients],
        [*cargo.keys],
        verdicts,
        known,
    )
    try:
        return VERSION + _encoder.encode(packed)
    except OverflowError:  # a number of the application's that MessagePack has no form for
        plain = msgspec.to_builtins(packed, builtin_types=(UUID, datetime, date, bytes), enc_hook=_plain)
        return VERSION + _encoder.encode(_in_64_bits(plain))


def read_job(data: bytes) -> Job:
    """The job with its cargo. Raises Unreadable."""
    packed = _read(_jobs, data)
    cargo = JobPayload(
        packed.notification,
        packed.default_origin,
        packed.recipients,
        packed.keys,
        {id_: _verdict(outcome) for id_, outcome in packed.pre_send_outcomes},
        dict(packed.template_context),
    )
    return _job(packed.head, cargo)


def write_result(result: Result) -> bytes:
    settlement = result.settlement
    settled = [_Settled(*done._replace(outcome=_shown(done.outcome))) for done in settlement.settled]  # type: ignore[arg-type]
    later = [(due, tries, device_ids) for (due, tries), device_ids in settlement.requeued.items()]
    packed = _Result(
        _head(result.job, ()),
        settled,
        settlement.attempts,
        later,
        settlement.retries,
        [*result.remaining],
        result.returned,
        result.checks_failure_rate,
    )
    return VERSION + _encoder.encode(packed)


def read_result(data: bytes) -> Result:
    """Raises Unreadable."""
    packed = _read(_results, data)
    settlement = ResultBatch(
        [
            DeliveryResult(
                done.device_id,
                done.user_id,
                done.host,
                _final(done.outcome),
                done.attempts,
                done.status,
                done.attempted_at,
                done.duration_ms,
                done.settled_at,
                done.variant,
            )
            for done in packed.settled
        ],
        packed.attempts,
        {(due, tries): device_ids for due, tries, device_ids in packed.later},
        packed.retries,
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


def _job(head: _Head, cargo: JobPayload | None = None) -> Job:
    said = {name: getattr(head, name) for name in _Head.__struct_fields__}
    return Job(**said, payload=cargo)


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


def _shown(outcome: Final | Deferred) -> _Outcome:
    match outcome:
        case Accepted(message, ttl, cause):
            return _Outcome(outcome.name.value, cause, message, ttl)
        case Rejected(cause, quarantine):
            return _Outcome(outcome.name.value, cause, quarantine=quarantine)
        case Deferred(until):
            return _Outcome(outcome.name, until=until)
        case _:
            return _Outcome(outcome.name.value, outcome.cause)


_OTHERS: Mapping[str, Any] = {
    OutcomeName.GONE: Gone,
    OutcomeName.EXPIRED: Expired,
    OutcomeName.CANCELLED: Cancelled,
    OutcomeName.SKIPPED: Skipped,
}


def _final(said: _Outcome) -> Final:
    if said.name == OutcomeName.ACCEPTED:
        return Accepted(said.message, said.ttl, said.cause)
    if said.name == OutcomeName.REJECTED:
        return Rejected(said.cause, said.quarantine)
    made: Final = _OTHERS[said.name](said.cause)
    return made


def _verdict(said: _Outcome) -> PreSendOutcome:
    if said.until is not None:
        return Deferred(said.until)
    verdict: PreSendOutcome = _final(said)  # type: ignore[assignment] # what was written was a verdict
    return verdict


def _in_64_bits(value: Any) -> Any:
    """The same with whole numbers that are larger as floats."""
    match value:
        case int() if not -(2**63) <= value < 2**63:
            return float(max(-MAX_FLOAT, min(value, MAX_FLOAT)))
        case dict():
            return {name: _in_64_bits(item) for name, item in value.items()}
        case list() | tuple():
            return [_in_64_bits(item) for item in value]
        case _:
            return value


def _plain(value: Any) -> Any:
    """What the database's driver has types of its own for."""
    if isinstance(value, UUID):
        return value.bytes
    raise NotImplementedError(type(value).__name__)


_encoder = msgspec.msgpack.Encoder(uuid_format="bytes", enc_hook=_plain)
_decoder = partial(msgspec.msgpack.Decoder, strict=True)
_jobs: "msgspec.msgpack.Decoder[_Job]" = _decoder(_Job)
_results: "msgspec.msgpack.Decoder[_Result]" = _decoder(_Result)
