"""Traces, from the request that asked for a notification to each attempt at sending it (the extra `otel`).

The queue lies between the two, so a notification keeps the W3C traceparent of its request, and its jobs go on from
there, on whatever machine they run. Attempts are told of by the batch, after they were made, and of a large batch some:
first those that failed.

All of it is off, and costs a look at `_tracer`, unless OTEL_EXPORTER_OTLP_ENDPOINT (or its sister for traces alone)
says where to send them. Those are OpenTelemetry's own variables, as are OTEL_TRACES_SAMPLER and OTEL_SERVICE_NAME.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal

import structlog

from gateway import __version__

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.trace import Span, Tracer

Kind = Literal["internal", "server", "client", "consumer"]
Attributes = Mapping[str, str | int | float | bool]
ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
NAME = "webpush-gateway"
FLUSH_MS = 3_000
_OFF: AbstractContextManager[None] = nullcontext()

log = structlog.get_logger(__name__)

_tracer: "Tracer | None" = None


@asynccontextmanager
async def running(processor: "SpanProcessor | None" = None) -> AsyncIterator[None]:
    """Trace for as long as it is open, if the environment says so; or into a `processor` of the caller's."""
    if processor is None and not any(os.environ.get(name) for name in ENDPOINTS):
        yield
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError:
        log.warning("tracing.not_installed", advice="pip install 'webpush-gateway[otel]'")
        yield
        return
    global _tracer  # noqa: PLW0603 - a process has one
    named = {"service.name": os.environ.get("OTEL_SERVICE_NAME") or NAME, "service.version": __version__}
    provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
    provider.add_span_processor(processor or BatchSpanProcessor(OTLPSpanExporter()))
    _tracer = provider.get_tracer(NAME, __version__)
    log.info("tracing.started")
    try:
        yield
    finally:
        _tracer = None
        await asyncio.to_thread(provider.force_flush, FLUSH_MS)
        await asyncio.to_thread(provider.shutdown)


def span(
    name: str,
    attributes: Attributes,
    *,
    kind: Kind = "internal",
    parent: str | None = None,
    began_ns: int | None = None,
) -> "AbstractContextManager[Span | None]":
    """A span around what is done within, below what is under way or below the traceparent `parent`."""
    return _OFF if _tracer is None else _span(_tracer, name, attributes, kind, parent, began_ns)


def on() -> bool:
    """Whether what is under way is traced: what takes time to tell need not be told otherwise."""
    if _tracer is None:
        return False
    from opentelemetry import trace  # noqa: PLC0415

    return trace.get_current_span().is_recording()


def past(name: str, attributes: Attributes, *, began_s: float, seconds: float, failed: bool) -> None:
    """A call to somebody else that was made and answered, below what is under way."""
    if _tracer is None:
        return
    from opentelemetry.trace import SpanKind, StatusCode  # noqa: PLC0415

    began = int(began_s * 1e9)
    told = _tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes, start_time=began)
    if failed:
        told.set_status(StatusCode.ERROR)
    told.end(began + int(seconds * 1e9))


def answered(at: "Span | None", status: int) -> None:
    """A request was answered so."""
    if at is None:
        return
    from opentelemetry.trace import StatusCode  # noqa: PLC0415

    at.set_attribute("http.response.status_code", status)
    if status >= 500:
        at.set_status(StatusCode.ERROR)


def carried() -> str | None:
    """The traceparent of what is under way, for whoever goes on with it later; None when nothing is traced."""
    if _tracer is None:
        return None
    carrier: dict[str, str] = {}
    _propagator().inject(carrier)
    return carrier.get("traceparent")


def named(at: "Span | None") -> dict[str, str]:
    """The trace's id, for the log."""
    return {} if at is None else {"trace_id": f"{at.get_span_context().trace_id:032x}"}


@contextmanager
def _span(
    tracer: "Tracer", name: str, attributes: Attributes, kind: Kind, parent: str | None, began_ns: int | None
) -> "Iterator[Span]":
    from opentelemetry.trace import SpanKind  # noqa: PLC0415

    above = None if parent is None else _propagator().extract({"traceparent": parent})
    with tracer.start_as_current_span(
        name, above, SpanKind[kind.upper()], attributes, start_time=began_ns, record_exception=False
    ) as began:
        yield began


def _propagator() -> Any:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

    return TraceContextTextMapPropagator()
