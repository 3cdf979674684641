"""OpenTelemetry traces, from the request that submits a notification to every attempt to send it (the extra `otel`).

Request and attempts are in different processes, so a notification stores the W3C traceparent of its request, and its
jobs continue that trace wherever they run. Spans of attempts are created once per batch, after the batch was sent. A
large batch gets spans for some of its attempts only, failed ones first.

Tracing is on if OTEL_EXPORTER_OTLP_ENDPOINT (or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT) is set; otherwise it costs only a
check of `_tracer`. These variables, OTEL_TRACES_SAMPLER and OTEL_SERVICE_NAME are those of OpenTelemetry.
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
# The default of OTEL_SERVICE_NAME.
SERVICE_NAME = "webpush-gateway"
# Time limit for exporting the remaining spans at shutdown, in milliseconds.
FLUSH_MS = 3_000
_OFF: AbstractContextManager[None] = nullcontext()

log = structlog.get_logger(__name__)

_tracer: "Tracer | None" = None


@asynccontextmanager
async def export_spans(processor: "SpanProcessor | None" = None) -> AsyncIterator[None]:
    """Export spans until the context ends: to `processor`, or to the endpoint that the environment names, if any."""
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
    global _tracer  # noqa: PLW0603 - one tracer per process
    service = {"service.name": os.environ.get("OTEL_SERVICE_NAME") or SERVICE_NAME, "service.version": __version__}
    provider = TracerProvider(resource=Resource.create(service), shutdown_on_exit=False)
    provider.add_span_processor(processor or BatchSpanProcessor(OTLPSpanExporter()))
    _tracer = provider.get_tracer(SERVICE_NAME, __version__)
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
    start_ns: int | None = None,
) -> "AbstractContextManager[Span | None]":
    """Return a context manager that records a span, as a child of the current span or of the traceparent `parent`.

    Args:
        name: the name of the span.
        attributes: the attributes of the span.
        kind: the OpenTelemetry span kind.
        parent: the W3C traceparent of the parent; None: the current span.
        start_ns: the Unix time of the start in nanoseconds; None: now.
    """
    return _OFF if _tracer is None else _span(_tracer, name, attributes, kind, parent, start_ns)


def is_recording() -> bool:
    """Return whether the current span is recorded. If not, callers need not compute attributes."""
    if _tracer is None:
        return False
    from opentelemetry import trace  # noqa: PLC0415

    return trace.get_current_span().is_recording()


def record_call(name: str, attributes: Attributes, *, start_s: float, seconds: float, failed: bool) -> None:
    """Record a completed call to another service, as a child of the current span. `start_s` is Unix time."""
    if _tracer is None:
        return
    from opentelemetry.trace import SpanKind, StatusCode  # noqa: PLC0415

    start_ns = int(start_s * 1e9)
    call = _tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes, start_time=start_ns)
    if failed:
        call.set_status(StatusCode.ERROR)
    call.end(start_ns + int(seconds * 1e9))


def set_response_status(request: "Span | None", status: int) -> None:
    """Record the HTTP status of the response in the request's span; 5xx marks the span as failed."""
    if request is None:
        return
    from opentelemetry.trace import StatusCode  # noqa: PLC0415

    request.set_attribute("http.response.status_code", status)
    if status >= 500:
        request.set_status(StatusCode.ERROR)


def current_traceparent() -> str | None:
    """Return the W3C traceparent of the current span; None when tracing is off."""
    if _tracer is None:
        return None
    carrier: dict[str, str] = {}
    _propagator().inject(carrier)
    return carrier.get("traceparent")


def log_fields(current: "Span | None") -> dict[str, str]:
    """Return the log fields by which a log event can be found from its trace."""
    return {} if current is None else {"trace_id": f"{current.get_span_context().trace_id:032x}"}


@contextmanager
def _span(
    tracer: "Tracer", name: str, attributes: Attributes, kind: Kind, parent: str | None, start_ns: int | None
) -> "Iterator[Span]":
    from opentelemetry.trace import SpanKind  # noqa: PLC0415

    context = None if parent is None else _propagator().extract({"traceparent": parent})
    with tracer.start_as_current_span(
        name, context, SpanKind[kind.upper()], attributes, start_time=start_ns, record_exception=False
    ) as current:
        yield current


def _propagator() -> Any:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

    return TraceContextTextMapPropagator()
