"""HTTP/2 (RFC 9113) as far as posting messages needs it: what is said on one connection, apart from the connection.

A general client costs as much for each message as its encryption. Ours are small and alike, and of the answers a few
headers matter: so what all messages of a round of the event loop say is one write, and their answers come
from one read. What a push service does beyond what RFC 9113 lets it do ends the connection.
"""

import asyncio

from gateway.push import responses
from gateway.push.header_block import Field, Reader, Writer
from gateway.push.responses import MAX_BODY_OCTETS, MAX_HEADER_LENGTH, HttpReply, NetworkFault, headers_of

# What a connection is allowed at once is the server's to say; section 6.5.2 asks for no less than this, and few allow
# more. What is beyond that goes over another connection.
STREAMS = 100

# Frame types, their flags, settings and error codes (sections 6 and 7).
DATA, HEADERS, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 5, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 0x01, 0x01, 0x04, 0x08, 0x20
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_HEADER_LIST_SIZE = 1, 2, 3, 4, 6
NO_ERROR, PROTOCOL_ERROR, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR = 0, 1, 3, 6
REFUSED_STREAM, CANCEL, ENHANCE_YOUR_CALM = 7, 8, 11

# Statuses below it announce another.
_FINAL = 200

_HEAD = 9
_MAX_FRAME = 16_384
_MAX_WINDOW = 2**31 - 1
_LAST_ID = 2**31 - 1
# As much as any push service says of one message; more is a flood.
_MAX_HEADERS = 32_768
_WINDOW = 65_535
_BODY_WINDOW = 2 * MAX_BODY_OCTETS
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_READER = Reader(responses.HEADERS)
ENDED = NetworkFault("reset", "the connection ended")

Answered = asyncio.Future[HttpReply | NetworkFault | None]
"""None: it was certainly not looked at, and may be sent again at once."""


class Violation(Exception):
    """The push service does not speak HTTP/2. `code`: RFC 9113 section 7."""

    def __init__(self, code: int, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class _Stream:
    __slots__ = ("answered", "body", "deadline", "headers", "status", "unsent", "window")

    def __init__(self, answered: Answered, deadline: float) -> None:
        self.answered = answered
        self.deadline = deadline
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.unsent = b""
        self.window = 0
        """How much of what is unsent the push service takes."""

    def settle(self, fault: NetworkFault | None) -> None:
        """There will be no more of it. The status counts even when what should follow does not come."""
        if not self.answered.done():
            self.answered.set_result(HttpReply(self.status, self.headers, self.body) if self.status else fault)


class Session:
    """`out`: octets to be sent, in order. What is received comes by `receive`, and answers go to their futures."""

    def __init__(self) -> None:
        settings = {
            HEADER_TABLE_SIZE: 0,
            ENABLE_PUSH: 0,
            INITIAL_WINDOW_SIZE: _BODY_WINDOW,
            MAX_HEADER_LIST_SIZE: _MAX_HEADERS,
        }
        said = b"".join(name.to_bytes(2) + value.to_bytes(4) for name, value in settings.items())
        self.out: list[bytes] = [_PREFACE, frame(SETTINGS, 0, 0, said)]
        self.ending = False
        """No more messages may be given to it."""
        self._writer = Writer()
        self._streams: dict[int, _Stream] = {}
        self._next_id = 1
        self._most = STREAMS
        self._window = self._initial_window = _WINDOW
        self._held: dict[int, _Stream] = {}
        """Streams whose bodies wait for the push service to take more."""
        self._wider = False
        """More of what is held may be sent: seen to once for all that was received together."""
        self._received = 0
        self._rest = b""
        self._unfinished: tuple[int, int, bytes] | None = None
        """(stream, flags, block so far) of headers that are continued."""

    @property
    def in_flight(self) -> int:
        return len(self._streams)

    @property
    def has_room(self) -> bool:
        return not self.ending and len(self._streams) < self._most

    def post(
        self, path: bytes, fields: tuple[Field, ...], ttl: int, body: bytes, answered: Answered, deadline: float
    ) -> int:
        """Say it; answers with the stream's id. Only while it `has_room`."""
        id_ = self._next_id
        self._next_id += 2
        if self._next_id > _LAST_ID:
            self.ending = True
        stream = self._streams[id_] = _Stream(answered, deadline)
        block = self._writer.post(path, fields, ttl, len(body))
        self.out.append(_head(len(block), HEADERS, END_HEADERS, id_))
        self.out.append(block)
        if len(body) <= self._window and len(body) <= self._initial_window and not self._held:
            self._window -= len(body)
            self.out.append(_head(len(body), DATA, END_STREAM, id_))
            self.out.append(body)
        else:
            stream.unsent, stream.window = body, self._initial_window
            self._held[id_] = stream
            self._send_held()
        return id_

    def cancel(self, id_: int) -> None:
        """Nobody waits for the answer any more."""
        if self._streams.pop(id_, None) is not None:
            self._held.pop(id_, None)
            self._reset(id_)

    def expire(self, now: float) -> int:
        """End what has had its time; answers how many that were."""
        late = []
        for id_, stream in self._streams.items():
            if stream.deadline > now:
                break
            late.append((id_, stream))
        for id_, stream in late:
            stream.settle(NetworkFault("timeout"))
            self.cancel(id_)
        return len(late)

    def ping(self) -> None:
        self.out.append(frame(PING, 0, 0, bytes(8)))

    def end(self, fault: NetworkFault = ENDED, code: int = NO_ERROR) -> None:
        """The connection is no more, or is to be no more."""
        self.ending = True
        self.out.append(frame(GOAWAY, 0, 0, bytes(4) + code.to_bytes(4)))
        streams, self._streams = self._streams, {}
        self._held.clear()
        for stream in streams.values():
            stream.settle(fault)

    def receive(self, octets: bytes) -> None:
        """Raises Violation: the connection must be ended."""
        data = self._rest + octets if self._rest else octets
        at, end = 0, len(data)
        while end - at >= _HEAD:
            length = int.from_bytes(data[at : at + 3])
            if length > _MAX_FRAME:
                raise Violation(FRAME_SIZE_ERROR, "a frame is too long")
            start = at + _HEAD
            if end - start < length:
                break
            id_ = int.from_bytes(data[at + 5 : start]) & _LAST_ID
            self._take(data[at + 3], data[at + 4], id_, data[start : start + length])
            at = start + length
        self._rest = data[at:]
        if self._wider:
            self._wider = False
            self._send_held()

    def _take(self, kind: int, flags: int, id_: int, payload: bytes) -> None:
        if self._unfinished is not None and kind != CONTINUATION:
            raise Violation(PROTOCOL_ERROR, "headers are broken off by another frame")
        if kind == HEADERS:
            block = _unpadded(flags, payload)
            self._headers(self._known(id_), flags, block[5:] if flags & PRIORITY else block)
        elif kind == DATA:
            self._data(self._known(id_), flags, payload)
        elif kind == WINDOW_UPDATE:
            self._widen(id_, int.from_bytes(_exactly(4, payload)) & _MAX_WINDOW)
        elif kind == SETTINGS:
            self._settings(flags, payload)
        elif kind == PING:
            if not flags & ACK:
                self.out.append(frame(PING, ACK, 0, _exactly(8, payload)))
        elif kind == RST_STREAM:
            code = int.from_bytes(_exactly(4, payload))
            if (stream := self._streams.pop(self._known(id_), None)) is not None:
                self._held.pop(id_, None)
                stream.settle(None if code == REFUSED_STREAM else NetworkFault("reset", f"HTTP/2 error {code}"))
        elif kind == GOAWAY:
            if len(payload) < 8:
                raise Violation(FRAME_SIZE_ERROR, "a frame of a wrong length")
            self._go_away(int.from_bytes(payload[:4]) & _LAST_ID)
        elif kind == CONTINUATION:
            self._continue(id_, flags, payload)
        elif kind == PUSH_PROMISE:
            raise Violation(PROTOCOL_ERROR, "a push that we do not allow")

    def _known(self, id_: int) -> int:
        """Raises Violation for a stream that we never began."""
        if not id_ & 1 or id_ >= self._next_id:
            raise Violation(PROTOCOL_ERROR, "a frame of a stream that is not ours")
        return id_

    def _headers(self, id_: int, flags: int, block: bytes) -> None:
        if not flags & END_HEADERS:
            self._unfinished = (id_, flags, block)
            return
        stream = self._streams.get(id_)
        if stream is None:
            return
        if not stream.status:  # what comes after a body is of no interest
            try:
                status, headers = _READER.read(block)
            except ValueError as error:
                raise Violation(PROTOCOL_ERROR, str(error)) from None
            if status < _FINAL:
                if flags & END_STREAM:
                    raise Violation(PROTOCOL_ERROR, "an announcement and no answer")
                return
            stream.status = status
            wanted = headers_of(status)
            stream.headers = {
                name: value for name, value in headers.items() if name in wanted and len(value) <= MAX_HEADER_LENGTH
            }
        if flags & END_STREAM:
            self._ended(id_, stream)

    def _continue(self, id_: int, flags: int, payload: bytes) -> None:
        if self._unfinished is None or self._unfinished[0] != id_:
            raise Violation(PROTOCOL_ERROR, "headers go on that did not begin")
        _, began, block = self._unfinished
        block += payload
        if len(block) > _MAX_HEADERS or not (payload or flags & END_HEADERS):
            raise Violation(ENHANCE_YOUR_CALM, "headers without end")
        self._unfinished = None
        self._headers(id_, began | flags & END_HEADERS, block)

    def _data(self, id_: int, flags: int, payload: bytes) -> None:
        self._received += len(payload)
        if self._received > _WINDOW // 2:
            self.out.append(frame(WINDOW_UPDATE, 0, 0, self._received.to_bytes(4)))
            self._received = 0
        stream = self._streams.get(id_)
        if stream is None:
            return
        if not stream.status:
            raise Violation(PROTOCOL_ERROR, "a body before its headers")
        stream.body = (stream.body + _unpadded(flags, payload))[:MAX_BODY_OCTETS]
        if flags & END_STREAM:
            self._ended(id_, stream)
        elif len(stream.body) == MAX_BODY_OCTETS:
            stream.settle(None)
            self.cancel(id_)

    def _ended(self, id_: int, stream: _Stream) -> None:
        stream.settle(None)
        del self._streams[id_]
        if self._held.pop(id_, None) is not None:  # answered before all of it was sent
            self._reset(id_)

    def _settings(self, flags: int, payload: bytes) -> None:
        if flags & ACK:
            return
        if len(payload) % 6:
            raise Violation(FRAME_SIZE_ERROR, "settings of a wrong length")
        for at in range(0, len(payload), 6):
            name, value = int.from_bytes(payload[at : at + 2]), int.from_bytes(payload[at + 2 : at + 6])
            if name == HEADER_TABLE_SIZE:
                self._writer.allow(value)
            elif name == MAX_CONCURRENT_STREAMS:
                self._most = max(1, min(STREAMS, value))  # of one that takes none we hear when it refuses
            elif name == INITIAL_WINDOW_SIZE:
                if value > _MAX_WINDOW:
                    raise Violation(FLOW_CONTROL_ERROR, "a window that is too large")
                for stream in self._held.values():
                    stream.window += value - self._initial_window
                self._initial_window = value
        self.out.append(frame(SETTINGS, ACK))
        self._wider = True

    def _widen(self, id_: int, by: int) -> None:
        if not by:
            raise Violation(PROTOCOL_ERROR, "a window that grows by nothing")
        if not id_:
            self._window += by
            if self._window > _MAX_WINDOW:
                raise Violation(FLOW_CONTROL_ERROR, "a window that is too large")
        elif (stream := self._held.get(self._known(id_))) is not None:
            stream.window += by
        self._wider = True

    def _send_held(self) -> None:
        for id_, stream in list(self._held.items()):
            size = min(len(stream.unsent), stream.window, self._window, _MAX_FRAME)
            if size < len(stream.unsent) and size <= 0:
                continue
            piece, stream.unsent = stream.unsent[:size], stream.unsent[size:]
            stream.window -= size
            self._window -= size
            if not stream.unsent:
                del self._held[id_]
            self.out.append(_head(size, DATA, 0 if stream.unsent else END_STREAM, id_))
            self.out.append(piece)

    def _go_away(self, last: int) -> None:
        """The push service ends the connection; what it has not looked at is free."""
        self.ending = True
        for id_ in [id_ for id_ in self._streams if id_ > last]:
            self._held.pop(id_, None)
            self._streams.pop(id_).settle(None)

    def _reset(self, id_: int) -> None:
        self.out.append(frame(RST_STREAM, 0, id_, CANCEL.to_bytes(4)))


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return _head(len(payload), kind, flags, stream) + payload


def _head(length: int, kind: int, flags: int, stream: int) -> bytes:
    return (length << 48 | kind << 40 | flags << 32 | stream).to_bytes(_HEAD)


def _exactly(length: int, payload: bytes) -> bytes:
    if len(payload) != length:
        raise Violation(FRAME_SIZE_ERROR, "a frame of a wrong length")
    return payload


def _unpadded(flags: int, payload: bytes) -> bytes:
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise Violation(PROTOCOL_ERROR, "more padding than frame")
    return payload[1 : len(payload) - payload[0]]
