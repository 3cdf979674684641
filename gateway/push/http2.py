"""A minimal HTTP/2 client session (RFC 9113) without I/O. It supports only what is needed to post push messages.

A general HTTP/2 library costs as much per message as the encryption. This session costs less, because push requests are
small and similar and only a few response headers are needed. All frames of one iteration of the event loop are sent in
one write, and all responses in one read are parsed together. If the peer violates RFC 9113, the connection is closed.
"""

import asyncio

from gateway.push import responses
from gateway.push.header_block import Field, HeaderDecoder, HeaderEncoder
from gateway.push.responses import MAX_BODY_OCTETS, MAX_HEADER_LENGTH, HttpReply, NetworkFault, relevant_headers

# Streams per connection. RFC 9113 section 6.5.2 recommends that servers allow at least 100, and few allow more;
# requests beyond that use another connection.
MAX_STREAMS = 100

# Frame types, their flags, settings and error codes (sections 6 and 7).
DATA, HEADERS, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 5, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 0x01, 0x01, 0x04, 0x08, 0x20
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_HEADER_LIST_SIZE = 1, 2, 3, 4, 6
NO_ERROR, PROTOCOL_ERROR, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR = 0, 1, 3, 6
REFUSED_STREAM, CANCEL, ENHANCE_YOUR_CALM = 7, 8, 11

# Lower statuses are interim responses.
_MIN_FINAL_STATUS = 200

# Sizes and limits of RFC 9113 (sections 4.1, 4.2, 5.1.1 and 6.9.1).
_FRAME_HEADER_OCTETS = 9
_MAX_FRAME = 16_384
_MAX_WINDOW = 2**31 - 1
_LAST_ID = 2**31 - 1
# Maximum octets of the header block of a response. For a longer one the connection is closed.
_MAX_HEADER_BLOCK = 32_768
_DEFAULT_WINDOW = 65_535
_BODY_WINDOW = 2 * MAX_BODY_OCTETS
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DECODER = HeaderDecoder(responses.HEADERS)
CONNECTION_CLOSED = NetworkFault("reset", "the connection was closed")

# None means that the request was certainly not processed and may be sent again at once.
ResponseFuture = asyncio.Future[HttpReply | NetworkFault | None]


class ProtocolError(Exception):
    """The push service violated HTTP/2. `code` is an error code of RFC 9113 section 7."""

    def __init__(self, code: int, detail: str) -> None:
        """Create the error with its code and a description."""
        super().__init__(detail)
        self.code = code
        self.detail = detail


class _Stream:
    __slots__ = ("body", "deadline", "headers", "response", "status", "unsent", "window")

    def __init__(self, response: ResponseFuture, deadline: float) -> None:
        self.response = response
        self.deadline = deadline
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.unsent = b""
        # How many octets of `unsent` the push service accepts on this stream.
        self.window = 0

    def settle(self, fault: NetworkFault | None) -> None:
        """Complete the response. If no status was received, the result is `fault`; the body may be incomplete."""
        if not self.response.done():
            self.response.set_result(HttpReply(self.status, self.headers, self.body) if self.status else fault)


class Http2Session:
    """State of one HTTP/2 connection.

    The caller sends the octets of `outgoing` in order, and passes received octets to `receive`. A received response
    completes the future that was passed to `post`.
    """

    def __init__(self) -> None:
        """Queue the connection preface and settings."""
        settings = {
            HEADER_TABLE_SIZE: 0,
            ENABLE_PUSH: 0,
            INITIAL_WINDOW_SIZE: _BODY_WINDOW,
            MAX_HEADER_LIST_SIZE: _MAX_HEADER_BLOCK,
        }
        payload = b"".join(name.to_bytes(2) + value.to_bytes(4) for name, value in settings.items())
        self.outgoing: list[bytes] = [_PREFACE, build_frame(SETTINGS, 0, 0, payload)]
        # Whether no more requests may be posted.
        self.is_closing = False
        self._encoder = HeaderEncoder()
        self._streams: dict[int, _Stream] = {}
        self._next_id = 1
        self._max_streams = MAX_STREAMS
        self._window = self._initial_window = _DEFAULT_WINDOW
        # Streams whose bodies wait for a larger flow-control window.
        self._blocked: dict[int, _Stream] = {}
        # Whether a window has grown during the current read, after which blocked streams are continued.
        self._window_grew = False
        self._received = 0
        self._unparsed = b""
        # (stream id, flags, block so far) of a header block that continues in CONTINUATION frames.
        self._partial_headers: tuple[int, int, bytes] | None = None

    @property
    def in_flight(self) -> int:
        """Number of requests without a complete response."""
        return len(self._streams)

    @property
    def has_capacity(self) -> bool:
        """Whether another request may be posted now."""
        return not self.is_closing and len(self._streams) < self._max_streams

    def post(
        self, path: bytes, fields: tuple[Field, ...], ttl: int, body: bytes, response: ResponseFuture, deadline: float
    ) -> int:
        """Queue a POST request and return its stream id. Requires `has_capacity`."""
        id_ = self._next_id
        self._next_id += 2
        if self._next_id > _LAST_ID:
            self.is_closing = True
        stream = self._streams[id_] = _Stream(response, deadline)
        block = self._encoder.encode_post(path, fields, ttl, len(body))
        self.outgoing.append(_frame_header(len(block), HEADERS, END_HEADERS, id_))
        self.outgoing.append(block)
        if len(body) <= self._window and len(body) <= self._initial_window and not self._blocked:
            self._window -= len(body)
            self.outgoing.append(_frame_header(len(body), DATA, END_STREAM, id_))
            self.outgoing.append(body)
        else:
            stream.unsent, stream.window = body, self._initial_window
            self._blocked[id_] = stream
            self._send_blocked()
        return id_

    def cancel(self, id_: int) -> None:
        """Reset a stream whose response is no longer needed."""
        if self._streams.pop(id_, None) is not None:
            self._blocked.pop(id_, None)
            self._reset(id_)

    def expire(self, now: float) -> int:
        """Time out requests past their deadline; return their number."""
        expired = []
        for id_, stream in self._streams.items():
            if stream.deadline > now:
                break
            expired.append((id_, stream))
        for id_, stream in expired:
            stream.settle(NetworkFault("timeout"))
            self.cancel(id_)
        return len(expired)

    def ping(self) -> None:
        """Queue a PING frame."""
        self.outgoing.append(build_frame(PING, 0, 0, bytes(8)))

    def end(self, fault: NetworkFault = CONNECTION_CLOSED, code: int = NO_ERROR) -> None:
        """End the session: queue GOAWAY and fail all requests in flight."""
        self.is_closing = True
        self.outgoing.append(build_frame(GOAWAY, 0, 0, bytes(4) + code.to_bytes(4)))
        streams, self._streams = self._streams, {}
        self._blocked.clear()
        for stream in streams.values():
            stream.settle(fault)

    def receive(self, octets: bytes) -> None:
        """Process received octets.

        Raises:
            ProtocolError: the connection must be closed.
        """
        data = self._unparsed + octets if self._unparsed else octets
        at, end = 0, len(data)
        while end - at >= _FRAME_HEADER_OCTETS:
            length = int.from_bytes(data[at : at + 3])
            if length > _MAX_FRAME:
                raise ProtocolError(FRAME_SIZE_ERROR, "a frame exceeds the maximum size")
            start = at + _FRAME_HEADER_OCTETS
            if end - start < length:
                break
            id_ = int.from_bytes(data[at + 5 : start]) & _LAST_ID
            self._receive_frame(data[at + 3], data[at + 4], id_, data[start : start + length])
            at = start + length
        self._unparsed = data[at:]
        if self._window_grew:
            self._window_grew = False
            self._send_blocked()

    def _receive_frame(self, kind: int, flags: int, id_: int, payload: bytes) -> None:
        if self._partial_headers is not None and kind != CONTINUATION:
            raise ProtocolError(PROTOCOL_ERROR, "another frame interrupts a header block")
        if kind == HEADERS:
            block = _strip_padding(flags, payload)
            self._receive_headers(self._check_stream_id(id_), flags, block[5:] if flags & PRIORITY else block)
        elif kind == DATA:
            self._receive_data(self._check_stream_id(id_), flags, payload)
        elif kind == WINDOW_UPDATE:
            self._receive_window_update(id_, int.from_bytes(_check_length(4, payload)) & _MAX_WINDOW)
        elif kind == SETTINGS:
            self._receive_settings(flags, payload)
        elif kind == PING:
            if not flags & ACK:
                self.outgoing.append(build_frame(PING, ACK, 0, _check_length(8, payload)))
        elif kind == RST_STREAM:
            code = int.from_bytes(_check_length(4, payload))
            if (stream := self._streams.pop(self._check_stream_id(id_), None)) is not None:
                self._blocked.pop(id_, None)
                stream.settle(None if code == REFUSED_STREAM else NetworkFault("reset", f"HTTP/2 error {code}"))
        elif kind == GOAWAY:
            if len(payload) < 8:
                raise ProtocolError(FRAME_SIZE_ERROR, "a frame of invalid length")
            self._receive_goaway(int.from_bytes(payload[:4]) & _LAST_ID)
        elif kind == CONTINUATION:
            self._receive_continuation(id_, flags, payload)
        elif kind == PUSH_PROMISE:
            raise ProtocolError(PROTOCOL_ERROR, "PUSH_PROMISE, which this client disabled")

    def _check_stream_id(self, id_: int) -> int:
        """Return the stream id, or raise ProtocolError for a stream that this client never opened."""
        if not id_ & 1 or id_ >= self._next_id:
            raise ProtocolError(PROTOCOL_ERROR, "a frame for a stream that this client did not open")
        return id_

    def _receive_headers(self, id_: int, flags: int, block: bytes) -> None:
        if not flags & END_HEADERS:
            self._partial_headers = (id_, flags, block)
            return
        stream = self._streams.get(id_)
        if stream is None:
            return
        if not stream.status:  # trailers are ignored
            try:
                status, headers = _DECODER.decode(block)
            except ValueError as error:
                raise ProtocolError(PROTOCOL_ERROR, str(error)) from None
            if status < _MIN_FINAL_STATUS:
                if flags & END_STREAM:
                    raise ProtocolError(PROTOCOL_ERROR, "an interim response ends the stream")
                return
            stream.status = status
            names = relevant_headers(status)
            stream.headers = {
                name: value for name, value in headers.items() if name in names and len(value) <= MAX_HEADER_LENGTH
            }
        if flags & END_STREAM:
            self._finish(id_, stream)

    def _receive_continuation(self, id_: int, flags: int, payload: bytes) -> None:
        if self._partial_headers is None or self._partial_headers[0] != id_:
            raise ProtocolError(PROTOCOL_ERROR, "CONTINUATION without a header block")
        _, first_flags, block = self._partial_headers
        block += payload
        if len(block) > _MAX_HEADER_BLOCK or not (payload or flags & END_HEADERS):
            raise ProtocolError(ENHANCE_YOUR_CALM, "the header block is too long")
        self._partial_headers = None
        self._receive_headers(id_, first_flags | flags & END_HEADERS, block)

    def _receive_data(self, id_: int, flags: int, payload: bytes) -> None:
        self._received += len(payload)
        if self._received > _DEFAULT_WINDOW // 2:
            self.outgoing.append(build_frame(WINDOW_UPDATE, 0, 0, self._received.to_bytes(4)))
            self._received = 0
        stream = self._streams.get(id_)
        if stream is None:
            return
        if not stream.status:
            raise ProtocolError(PROTOCOL_ERROR, "DATA before HEADERS")
        stream.body = (stream.body + _strip_padding(flags, payload))[:MAX_BODY_OCTETS]
        if flags & END_STREAM:
            self._finish(id_, stream)
        elif len(stream.body) == MAX_BODY_OCTETS:
            stream.settle(None)
            self.cancel(id_)

    def _finish(self, id_: int, stream: _Stream) -> None:
        stream.settle(None)
        del self._streams[id_]
        if self._blocked.pop(id_, None) is not None:  # the response came before the whole body was sent
            self._reset(id_)

    def _receive_settings(self, flags: int, payload: bytes) -> None:
        if flags & ACK:
            return
        if len(payload) % 6:
            raise ProtocolError(FRAME_SIZE_ERROR, "SETTINGS of invalid length")
        for at in range(0, len(payload), 6):
            name, value = int.from_bytes(payload[at : at + 2]), int.from_bytes(payload[at + 2 : at + 6])
            if name == HEADER_TABLE_SIZE:
                self._encoder.limit_table_size(value)
            elif name == MAX_CONCURRENT_STREAMS:
                # With a limit of 0 one stream is still tried; the server refuses it, and the request can be repeated.
                self._max_streams = max(1, min(MAX_STREAMS, value))
            elif name == INITIAL_WINDOW_SIZE:
                if value > _MAX_WINDOW:
                    raise ProtocolError(FLOW_CONTROL_ERROR, "the flow-control window is too large")
                for stream in self._blocked.values():
                    stream.window += value - self._initial_window
                self._initial_window = value
        self.outgoing.append(build_frame(SETTINGS, ACK))
        self._window_grew = True

    def _receive_window_update(self, id_: int, increment: int) -> None:
        if not increment:
            raise ProtocolError(PROTOCOL_ERROR, "WINDOW_UPDATE by 0")
        if not id_:
            self._window += increment
            if self._window > _MAX_WINDOW:
                raise ProtocolError(FLOW_CONTROL_ERROR, "the flow-control window is too large")
        elif (stream := self._blocked.get(self._check_stream_id(id_))) is not None:
            stream.window += increment
        self._window_grew = True

    def _send_blocked(self) -> None:
        for id_, stream in list(self._blocked.items()):
            size = min(len(stream.unsent), stream.window, self._window, _MAX_FRAME)
            if size < len(stream.unsent) and size <= 0:
                continue
            piece, stream.unsent = stream.unsent[:size], stream.unsent[size:]
            stream.window -= size
            self._window -= size
            if not stream.unsent:
                del self._blocked[id_]
            self.outgoing.append(_frame_header(size, DATA, 0 if stream.unsent else END_STREAM, id_))
            self.outgoing.append(piece)

    def _receive_goaway(self, last: int) -> None:
        """Stop accepting requests; requests that the push service did not process may be sent again."""
        self.is_closing = True
        for id_ in [id_ for id_ in self._streams if id_ > last]:
            self._blocked.pop(id_, None)
            self._streams.pop(id_).settle(None)

    def _reset(self, id_: int) -> None:
        self.outgoing.append(build_frame(RST_STREAM, 0, id_, CANCEL.to_bytes(4)))


def build_frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """Return one frame (RFC 9113 section 4.1)."""
    return _frame_header(len(payload), kind, flags, stream) + payload


def _frame_header(length: int, kind: int, flags: int, stream: int) -> bytes:
    return (length << 48 | kind << 40 | flags << 32 | stream).to_bytes(_FRAME_HEADER_OCTETS)


def _check_length(length: int, payload: bytes) -> bytes:
    if len(payload) != length:
        raise ProtocolError(FRAME_SIZE_ERROR, "a frame of invalid length")
    return payload


def _strip_padding(flags: int, payload: bytes) -> bytes:
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ProtocolError(PROTOCOL_ERROR, "the padding exceeds the frame")
    return payload[1 : len(payload) - payload[0]]
