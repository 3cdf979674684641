"""Traces: the request, its jobs and each attempt are in one trace, and log lines have the same ids."""

import logging
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from gateway import tracing
from gateway.domain import clock, ids
from gateway.domain.delivery import Accepted, Gone, OutcomeName
from gateway.domain.job import Job, JobKind
from gateway.domain.job_payload import Recipient
from gateway.domain.notification import Lane
from gateway.queue import wire
from gateway.records import notifications
from gateway.service.notifications.rendering import RendererCache
from gateway.service.pipeline.job_loading import load
from gateway.service.pipeline.push_sender import SendResult
from gateway.sim import Vendor
from gateway.worker import instrumentation
from tests.support.api import Api

# The trace id of the request.
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
# The header `traceparent` of the request.
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
NOTIFICATION = {"content": {"title": "Hello"}, "audience": {"everyone": True}}


@pytest.fixture
async def spans() -> AsyncIterator[InMemorySpanExporter]:
    """The spans that the gateway exports during the test."""
    exporter = InMemorySpanExporter()
    async with tracing.export_spans(SimpleSpanProcessor(exporter)):
        yield exporter


def log_events(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """Return the structured log events of the test."""
    return [record.msg for record in caplog.records if isinstance(record.msg, dict)]


async def test_request_plan_jobs_and_attempts_are_one_trace(
    api: Api, spans: InMemorySpanExporter, caplog: pytest.LogCaptureFixture
) -> None:
    """A request, its plan, its jobs and their attempts are one trace."""
    parts = api.parts
    await parts.register(parts.subscribe(Vendor.FCM, 2, share_keys=True))
    with caplog.at_level(logging.INFO):
        notification = await api.call_ok(
            "POST", "/v1/notifications", NOTIFICATION, headers={"traceparent": TRACEPARENT}
        )
        id_ = ids.parse(ids.NOTIFICATION, notification["id"])
        assert id_ is not None
        async with parts.run_worker():
            await parts.wait_until_done(id_)

    trace_spans = [span for span in spans.get_finished_spans() if span.context.trace_id == int(TRACE, 16)]
    by_name: dict[str, list[ReadableSpan]] = {}
    for span in trace_spans:
        by_name.setdefault(span.name.partition(" ")[0] if "127.0.0.1" in span.name else span.name, []).append(span)
    [request], [plan], [job] = by_name["POST /v1/notifications"], by_name["plan"], by_name["deliver"]
    attempts = by_name["POST"]
    assert len(attempts) == 2
    assert request.parent is not None
    assert f"{request.parent.span_id:016x}" in TRACEPARENT
    parents = {span.name: span.parent.span_id for span in (plan, job) if span.parent}
    assert parents == dict.fromkeys(("plan", "deliver"), request.context.span_id)
    for span in (*attempts, *by_name["settle"]):
        assert span.parent is not None
        assert span.parent.span_id == job.context.span_id
    assert request.attributes is not None
    assert request.attributes["http.response.status_code"] == 201
    for span in attempts:
        assert span.attributes is not None
        assert span.attributes["outcome"] == OutcomeName.ACCEPTED
        assert span.attributes["http.response.status_code"] == 201

    log_lines = {
        line["event"]: line for line in log_events(caplog) if line.get("notification_id") == notification["id"]
    }
    assert {"http.request", "notification.planned"} <= log_lines.keys()
    assert log_lines["http.request"]["request_id"] == request.attributes["request.id"]
    assert log_lines["http.request"]["trace_id"] == TRACE
    assert log_lines["notification.planned"]["job_id"] == (plan.attributes or {})["job.id"]


async def test_trace_is_carried_in_the_job_payload(api: Api, spans: InMemorySpanExporter) -> None:
    """The job payload for workers without a database has the trace."""
    parts = api.parts
    notification = await api.call_ok("POST", "/v1/notifications", NOTIFICATION, headers={"traceparent": TRACEPARENT})
    id_ = ids.parse(ids.NOTIFICATION, notification["id"])
    assert id_ is not None
    job = Job(1, JobKind.SEND, id_, parts.application_id, Lane.NORMAL, 1, 0, None, ())
    payload = await load(parts.engine, RendererCache(parts.context.keyring, None), job)
    assert payload is not None
    received = wire.read_job(wire.write_job(job, payload)).payload
    assert received is not None
    assert received.notification.trace is not None
    assert TRACE in received.notification.trace


async def test_large_batch_traces_only_failures(spans: InMemorySpanExporter) -> None:
    """Of a large batch, only MAX_TRACED attempts have spans, failures first, so that spans do not delay alerts."""
    host = "push.example.org"
    recipient = Recipient(ids.new_id(), f"https://{host}/1", host, b"", b"", ids.new_id(), "", None)
    result = SendResult(Accepted(None, None), 201, clock.now(), 10, posted=True)
    batch = [(recipient, result)] * 499 + [(recipient, result._replace(outcome=Gone("no longer exists"), status=410))]
    job = Job(1, JobKind.SEND, ids.new_id(), ids.new_id(), Lane.BULK, 1, 0, None, ())
    with tracing.span("deliver", {}):
        instrumentation.record_batch(job, None, batch)
    attempts = [span for span in spans.get_finished_spans() if span.name.startswith("POST")]
    assert len(attempts) == instrumentation.MAX_TRACED
    assert (attempts[0].attributes or {})["outcome"] == OutcomeName.GONE


async def test_nothing_is_traced_without_endpoint_or_extra(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without an endpoint or the optional packages nothing is traced."""
    async with tracing.export_spans():
        notification = await api.call_ok(
            "POST", "/v1/notifications", NOTIFICATION, headers={"traceparent": TRACEPARENT}
        )
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    async with tracing.export_spans():
        assert not tracing.is_recording()
        assert tracing.current_traceparent() is None
    assert [line for line in log_events(caplog) if line["event"] == "tracing.not_installed"]
    id_ = ids.parse(ids.NOTIFICATION, notification["id"])
    assert id_ is not None
    async with api.parts.engine.connect() as conn:
        [stored] = await notifications.load(conn, [id_])
    assert stored.trace is None
