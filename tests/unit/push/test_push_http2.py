"""The HTTP/2 session against the independent h2 library."""

import asyncio
import struct
from collections.abc import Iterator

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.push import http2
from gateway.push.http2 import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Http2Session,
    ProtocolError,
    ResponseFuture,
    build_frame,
)
from gateway.push.responses import HttpReply, NetworkFault

FIELDS = ((b":scheme", b"https"), (b":authority", b"push.example.org"), (b"authorization", b"vapid t=a.b.c,k=BKey"))
# A header block with `:status: 201`.
CREATED = b"\x48\x03201"
Headers = list[tuple[str, str]]


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


class Peer:
    """The push service's side of the session, with the strict h2 library.

    `complete` has the ids of the streams whose request arrived completely, `reset` those that the session reset.
    """

    def __init__(self, session: Http2Session, **settings_: int) -> None:
        self.session = session
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        codes = h2.settings.SettingCodes
        self.h2.local_settings = h2.settings.Settings(
            client=False, initial_values={codes[name]: value for name, value in settings_.items()}
        )
        self.h2.initiate_connection()
        self.requests: dict[int, dict[bytes, bytes]] = {}
        self.bodies: dict[int, bytes] = {}
        self.complete: list[int] = []
        self.reset: list[int] = []
        self.acknowledges_data = True

    def exchange(self) -> None:
        """Pass frames between both sides until neither has more to send."""
        while True:
            sent = b"".join(self.session.outgoing)
            self.session.outgoing.clear()
            self._handle(sent)
            received = self.h2.data_to_send()
            if not sent and not received:
                return
            self.session.receive(received)

    def _handle(self, octets: bytes) -> None:
        for event in self.h2.receive_data(octets):
            match event:
                case h2.events.RequestReceived():
                    self.requests[event.stream_id] = {bytes(name): bytes(value) for name, value in event.headers}
                    self.bodies[event.stream_id] = b""
                case h2.events.DataReceived():
                    self.bodies[event.stream_id] += event.data
                    if self.acknowledges_data:
                        self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                case h2.events.StreamEnded():
                    self.complete.append(event.stream_id)
                case h2.events.StreamReset():
                    self.reset.append(event.stream_id)

    def respond(self, id_: int, headers: Headers, body: bytes | None = None) -> None:
        self.h2.send_headers(id_, headers, end_stream=body is None)
        if body is not None:
            self.h2.send_data(id_, body, end_stream=True)


def post(
    session: Http2Session, loop: asyncio.AbstractEventLoop, body: bytes = b"sealed", deadline: float = 30
) -> ResponseFuture:
    response: ResponseFuture = loop.create_future()
    session.post(b"/p/1?a=b", FIELDS, 60, body, response, deadline)
    return response


def test_responses_arrive_in_any_order(loop: asyncio.AbstractEventLoop) -> None:
    """Each response goes to the request of its stream."""
    session = Http2Session()
    peer = Peer(session)
    responses = [post(session, loop, b"x" * size) for size in (1, 4096, 300)]
    peer.exchange()
    assert peer.requests[3] == {
        b":method": b"POST",
        b":path": b"/p/1?a=b",
        **dict(FIELDS),
        b"ttl": b"60",
        b"content-length": b"4096",
    }
    assert [len(peer.bodies[id_]) for id_ in (1, 3, 5)] == [1, 4096, 300]
    assert peer.complete == [1, 3, 5]
    peer.respond(5, [(":status", "201"), ("location", "/m/5"), ("ttl", "60"), ("date", "today")])
    peer.respond(1, [(":status", "429"), ("retry-after", "7"), ("location", "/no")], b"slow down")
    peer.respond(3, [(":status", "410")], b"")
    peer.exchange()
    assert [response.result() for response in responses] == [
        HttpReply(429, {"retry-after": "7"}, b"slow down"),
        HttpReply(410, {}),
        HttpReply(201, {"location": "/m/5", "ttl": "60"}),
    ]
    assert session.in_flight == 0


def test_windows_are_refilled_for_thousands_of_requests(loop: asyncio.AbstractEventLoop) -> None:
    """The session receives 6 million octets of response bodies, more than its initial window allows."""
    session = Http2Session()
    peer = Peer(session)
    for number in range(2000):
        response = post(session, loop, b"x" * 4000)
        peer.exchange()
        # Each response body uses up a part of the session's receive window, so the session must refill the window.
        peer.respond(2 * number + 1, [(":status", "400")], b"y" * 3000)
        peer.exchange()
        assert response.result() == HttpReply(400, {}, b"y" * 3000)
    assert session.in_flight == 0


@pytest.mark.parametrize("window", [0, 1, 1000, 5000])
def test_body_waits_for_stream_window(loop: asyncio.AbstractEventLoop, window: int) -> None:
    """A body is sent only as far as the window of its stream allows."""
    session = Http2Session()
    peer = Peer(session, INITIAL_WINDOW_SIZE=window)
    peer.acknowledges_data = False
    peer.exchange()
    post(session, loop, b"a" * 4000), post(session, loop, b"b" * 4000)
    peer.exchange()
    assert [len(body) for body in peer.bodies.values()] == [min(window, 4000)] * 2
    peer.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 2000})
    peer.exchange()
    peer.h2.increment_flow_control_window(2000, 1)
    peer.h2.increment_flow_control_window(2000, 3)
    peer.exchange()
    assert [*peer.bodies.values()] == [b"a" * 4000, b"b" * 4000]
    assert peer.complete == [1, 3]


def test_bodies_respect_the_connection_window(loop: asyncio.AbstractEventLoop) -> None:
    """All bodies together are sent only as far as the window of the connection allows."""
    session = Http2Session()
    peer = Peer(session)
    peer.acknowledges_data = False
    for _ in range(40):
        post(session, loop, b"x" * 4000)
    peer.exchange()
    assert sum(map(len, peer.bodies.values())) == 65_535
    peer.h2.increment_flow_control_window(200_000)
    peer.exchange()
    assert {len(body) for body in peer.bodies.values()} == {4000}
    assert len(peer.complete) == 40


def test_capacity_follows_max_concurrent_streams(loop: asyncio.AbstractEventLoop) -> None:
    """A session has capacity while it has fewer open streams than the server allows."""
    session = Http2Session()
    peer = Peer(session, MAX_CONCURRENT_STREAMS=2)
    peer.exchange()
    post(session, loop)
    assert session.has_capacity
    post(session, loop)
    assert not session.has_capacity
    peer.exchange()
    peer.respond(1, [(":status", "201")])
    peer.exchange()
    assert session.has_capacity


def test_incomplete_body_ends_at_limit_reset_or_deadline(loop: asyncio.AbstractEventLoop) -> None:
    """The session returns the status after 4 KiB of the body, after a reset of the stream, or at the deadline."""
    session = Http2Session()
    peer = Peer(session)
    early, endless, broken, late = (post(session, loop, deadline=deadline) for deadline in (1, 1, 1, 5))
    peer.exchange()
    for id_, status in ((1, "201"), (3, "500"), (5, "503"), (7, "410")):
        peer.h2.send_headers(id_, [(":status", status)])
    peer.h2.send_data(3, b"z" * 5000)
    peer.h2.send_data(5, b"half")
    peer.h2.reset_stream(5)
    peer.exchange()
    assert endless.result() == HttpReply(500, {}, b"z" * 4096)
    assert broken.result() == HttpReply(503, {}, b"half")
    assert peer.reset == [3]
    assert (early.done(), late.done(), session.in_flight) == (False, False, 2)
    session.expire(2)
    assert (early.result(), late.done()) == (HttpReply(201, {}), False)
    session.expire(6)
    peer.exchange()
    assert late.result() == HttpReply(410, {})
    assert (session.in_flight, peer.reset) == (0, [3, 1, 7])


def test_trailers_and_interim_responses_are_ignored(loop: asyncio.AbstractEventLoop) -> None:
    """Only the headers of the final response count."""
    session = Http2Session()
    peer = Peer(session)
    response = post(session, loop)
    peer.exchange()
    peer.h2.send_headers(1, [(":status", "103"), ("location", "/hint")])
    peer.exchange()
    assert not response.done()
    peer.h2.send_headers(1, [(":status", "404"), ("retry-after", "1")])
    peer.h2.send_data(1, b"no")
    peer.h2.send_headers(1, [("retry-after", "9")], end_stream=True)
    peer.exchange()
    assert response.result() == HttpReply(404, {"retry-after": "1"}, b"no")


def test_unprocessed_streams_may_be_resent(loop: asyncio.AbstractEventLoop) -> None:
    """A refused or unprocessed stream has the response None; a stream with another reset has a fault."""
    session = Http2Session()
    peer = Peer(session)
    first, refused, reset, last = (post(session, loop) for _ in range(4))
    peer.exchange()
    peer.h2.reset_stream(3, h2.errors.ErrorCodes.REFUSED_STREAM)
    peer.h2.reset_stream(5, h2.errors.ErrorCodes.INTERNAL_ERROR)
    peer.exchange()
    peer.session.receive(build_frame(GOAWAY, 0, 0, struct.pack("!II", 5, 0) + b"bye"))
    assert (refused.result(), last.result()) == (None, None)
    assert reset.result() == NetworkFault("reset", "HTTP/2 error 2")
    assert (session.is_closing, session.has_capacity, first.done()) == (True, False, False)
    peer.respond(1, [(":status", "201")])
    session.receive(peer.h2.data_to_send())
    assert first.result() == HttpReply(201, {})
    assert session.in_flight == 0


def test_cancelled_stream_is_reset(loop: asyncio.AbstractEventLoop) -> None:
    """A cancelled request is reset, also if its body waits for the window; the requests that remain are completed."""
    session = Http2Session()
    peer = Peer(session)
    peer.acknowledges_data = False
    for _ in range(17):
        post(session, loop, b"x" * 4000)
    session.cancel(33)  # the 17th stream, which waits for the connection window
    session.cancel(1)
    peer.exchange()
    assert peer.reset == [33, 1]
    assert session.in_flight == 15
    peer.h2.increment_flow_control_window(9000)
    peer.exchange()
    assert len(peer.complete) == 16


def test_connection_end_fails_streams_without_status(loop: asyncio.AbstractEventLoop) -> None:
    """When the connection ends, a request whose status has arrived gets a response, and one without a status fails."""
    session = Http2Session()
    peer = Peer(session)
    with_status, without_status = post(session, loop), post(session, loop)
    peer.exchange()
    peer.h2.send_headers(1, [(":status", "400")])
    peer.exchange()
    session.end()
    assert with_status.result() == HttpReply(400, {})
    assert without_status.result() == http2.CONNECTION_CLOSED
    assert not session.has_capacity


def test_padding_priority_and_continuation_are_handled(loop: asyncio.AbstractEventLoop) -> None:
    """A response with padding, a priority and a CONTINUATION frame is the same as a response without them."""
    session = Http2Session()
    response = post(session, loop)
    head, rest = CREATED[:2], CREATED[2:]
    session.receive(build_frame(HEADERS, PADDED | PRIORITY, 1, b"\x03" + bytes(5) + head + bytes(3)))
    session.receive(build_frame(CONTINUATION, 0, 1, rest[:1]))
    session.receive(build_frame(CONTINUATION, END_HEADERS, 1, rest[1:]))
    session.receive(build_frame(DATA, PADDED | END_STREAM, 1, b"\x02{}" + bytes(2)))
    assert response.result() == HttpReply(201, {}, b"{}")
    assert session.in_flight == 0


def test_frames_may_arrive_octet_by_octet(loop: asyncio.AbstractEventLoop) -> None:
    """The session assembles frames that it receives one octet at a time."""
    session = Http2Session()
    response = post(session, loop)
    session.outgoing.clear()
    for octet in (
        build_frame(SETTINGS)
        + build_frame(PING, 0, 0, b"12345678")
        + build_frame(HEADERS, END_HEADERS | END_STREAM, 1, CREATED)
    ):
        session.receive(bytes([octet]))
    assert response.result() == HttpReply(201, {})
    assert session.outgoing == [build_frame(SETTINGS, ACK), build_frame(PING, ACK, 0, b"12345678")]


HOSTILE: dict[str, bytes] = {
    "a frame that is too long": (16_385).to_bytes(3) + bytes(6),
    "headers on a server stream": build_frame(HEADERS, END_HEADERS, 2, CREATED),
    "headers on an idle stream": build_frame(HEADERS, END_HEADERS, 9, CREATED),
    "an incomplete header block": build_frame(HEADERS, END_HEADERS, 1, b"\x48\x03"),
    "a header from the dynamic table": build_frame(HEADERS, END_HEADERS, 1, b"\xbe"),
    "headers interrupted by data": build_frame(HEADERS, 0, 1, CREATED) + build_frame(DATA, 0, 1, b"x"),
    "headers that never end": build_frame(HEADERS, 0, 1, CREATED) + 3 * build_frame(CONTINUATION, 0, 1, b"a" * 16_000),
    "an empty continuation": build_frame(HEADERS, 0, 1, CREATED) + build_frame(CONTINUATION, 0, 1),
    "a continuation without headers": build_frame(CONTINUATION, END_HEADERS, 1, CREATED),
    "padding longer than the frame": build_frame(HEADERS, END_HEADERS | PADDED, 1, b"\x09abc"),
    "a body before its headers": build_frame(DATA, 0, 1, b"x"),
    "data on stream 0": build_frame(DATA, 0, 0, b"x"),
    "settings of a wrong length": build_frame(SETTINGS, 0, 0, b"12345"),
    "an initial window that is too large": build_frame(SETTINGS, 0, 0, struct.pack("!HI", 4, 2**31)),
    "a window that overflows": build_frame(WINDOW_UPDATE, 0, 0, struct.pack("!I", 2**31 - 1)),
    "a window increment of 0": build_frame(WINDOW_UPDATE, 0, 0, bytes(4)),
    "a window update of a wrong length": build_frame(WINDOW_UPDATE, 0, 0, bytes(3)),
    "a ping of a wrong length": build_frame(PING, 0, 0, bytes(7)),
    "a reset of an idle stream": build_frame(RST_STREAM, 0, 3, bytes(4)),
    "a truncated GOAWAY": build_frame(GOAWAY, 0, 0, bytes(4)),
    "a push promise": build_frame(PUSH_PROMISE, END_HEADERS, 1, bytes(4) + CREATED),
}


@pytest.mark.parametrize("octets", HOSTILE.values(), ids=HOSTILE.keys())
def test_rfc_9113_violation_raises_protocol_error(loop: asyncio.AbstractEventLoop, octets: bytes) -> None:
    """The session leaves the request without a response until the caller ends the session."""
    session = Http2Session()
    response = post(session, loop)
    with pytest.raises(ProtocolError, match=r"\w"):
        session.receive(octets)
    assert not response.done()


@given(
    st.lists(
        st.tuples(st.integers(0, 10), st.integers(0, 255), st.sampled_from([0, 1, 2, 3, 5]), st.binary(max_size=60)),
        max_size=20,
    )
)
@settings(max_examples=300)
def test_session_survives_random_frames(frames: list[tuple[int, int, int, bytes]]) -> None:
    """After random frames and the deadline, every request has a response or a fault, and no stream is open."""
    loop = asyncio.new_event_loop()
    session = Http2Session()
    responses = [post(session, loop, b"x" * 3000) for _ in range(2)]
    try:
        for kind, flags, stream, payload in frames:
            session.receive(build_frame(kind, flags, stream, payload))
    except ProtocolError as violation:
        session.end(NetworkFault("protocol", violation.detail), violation.code)
    session.expire(31)
    loop.close()
    assert all(response.done() for response in responses)
    assert session.in_flight == 0
