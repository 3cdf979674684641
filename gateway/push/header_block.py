"""Header blocks of HTTP/2 (HPACK, RFC 7541), as far as posting messages needs them.

The general library would cost as much for each message as its encryption. Here what all messages of an application have
in common is written once and then told by an octet a field; and we allow push services no table of their own, so that
a block of theirs means the same whatever came before it, and all that nobody asks for is passed over unread.
"""

from collections import OrderedDict

from hpack import HPACKDecodingError
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from gateway.domain.bounded_cache import put

Field = tuple[bytes, bytes]

TABLE_SIZE = 4096
"""Octets of our requests' fields that a push service remembers, unless it wants fewer (RFC 9113 section 6.5.2)."""

_STATIC: tuple[Field, ...] = HeaderTable.STATIC_TABLE
_LAST_STATIC = len(_STATIC)
_STATIC_FIELDS = {field: index for index, field in reversed([*enumerate(_STATIC, 1)])}
_STATIC_NAMES = {name: index for index, (name, _) in reversed([*enumerate(_STATIC, 1)])}
_STATUS = _STATIC_NAMES[b":status"]
_STATUSES = {index: int(value) for index, (name, value) in enumerate(_STATIC, 1) if name == b":status"}
# RFC 7541 section 4.1: what an entry is taken to need beside its octets.
_ENTRY = 32
_METHOD = bytes([0x80 | _STATIC_FIELDS[b":method", b"POST"]])
# Never to be remembered by anyone on the way (section 7.1.3): an endpoint is a secret.
_PATH = bytes([0x10 | _STATIC_NAMES[b":path"]])
_TTL = b"\x00\x03ttl"
_MAX_INTEGER = 28
_MAX_BLOCKS = 256


def _integer(value: int, bits: int, first: int = 0) -> bytes:
    """Section 5.1. `bits`: of the first octet, whose other bits are `first`."""
    most = (1 << bits) - 1
    if value < most:
        return bytes([first | value])
    octets = [first | most]
    value -= most
    while value >= 0x80:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*octets, value])


def _string(octets: bytes) -> bytes:
    """Section 5.2, not compressed: what is long is sent once, or is random."""
    return _integer(len(octets), 7) + octets


_CONTENT_LENGTH = _integer(_STATIC_NAMES[b"content-length"], 4)


class Writer:
    """The requests of one connection, whose table of fields grows with what is told in them."""

    def __init__(self) -> None:
        self._size = TABLE_SIZE
        self._used = 0
        self._told = 0
        self._table: OrderedDict[Field, int] = OrderedDict()
        """The number of each entry, counted from the first that was ever told."""
        self._blocks: dict[tuple[Field, ...], bytes] = {}
        """What says these fields as long as nothing more is told."""
        self._resized = b""

    def post(self, path: bytes, fields: tuple[Field, ...], ttl: int, length: int) -> bytes:
        """The block of a POST. `fields`: in order, `:scheme` and `:authority` first. `length`: of the body."""
        block = self._blocks.get(fields)
        if block is None:
            block = self._write(fields)
        resized, self._resized = self._resized, b""
        ttl_, length_ = str(ttl).encode(), str(length).encode()
        return b"".join(
            (resized, _METHOD, _PATH, _string(path), block, _TTL, _string(ttl_), _CONTENT_LENGTH, _string(length_))
        )

    def allow(self, size: int) -> None:
        """The push service remembers no more than so many octets (SETTINGS_HEADER_TABLE_SIZE)."""
        if size < self._size:
            self._size = size
            self._make_room(0)
            self._blocks.clear()
            self._resized = _integer(size, 5, 0x20)

    def _write(self, fields: tuple[Field, ...]) -> bytes:
        told = self._told
        block = b"".join(map(self._field, fields))
        if told == self._told:
            put(self._blocks, fields, block, _MAX_BLOCKS)
        else:
            self._blocks.clear()
        return block

    def _field(self, field: Field) -> bytes:
        if (index := _STATIC_FIELDS.get(field)) is not None:
            return _integer(index, 7, 0x80)
        if (number := self._table.get(field)) is not None:
            return _integer(_LAST_STATIC + 1 + self._told - number, 7, 0x80)
        name, value = field
        index = _STATIC_NAMES.get(name, 0)
        rest = _string(value) if index else _string(name) + _string(value)
        size = len(name) + len(value) + _ENTRY
        if size > self._size:
            return _integer(index, 4) + rest
        self._make_room(size)
        self._told += 1
        self._table[field] = self._told
        self._used += size
        return _integer(index, 6, 0x40) + rest

    def _make_room(self, size: int) -> None:
        while self._used + size > self._size:
            (name, value), _ = self._table.popitem(last=False)
            self._used -= len(name) + len(value) + _ENTRY


class Reader:
    """Answers: the status, and the headers of these names (lower-case)."""

    def __init__(self, names: tuple[str, ...]) -> None:
        huffman = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)
        encoded = [(name, name.encode()) for name in names]
        self._by_index = {_STATIC_NAMES[raw]: name for name, raw in encoded if raw in _STATIC_NAMES}
        # As they are written, compressed or not, which the first bit before their length tells apart.
        self._by_name = {(0, raw): name for name, raw in encoded} | {
            (0x80, huffman.encode(raw)): name for name, raw in encoded
        }

    def read(self, block: bytes) -> tuple[int, dict[str, str]]:
        """(status, headers). Raises ValueError for what is no header block of an answer.

        A value that is no plain text is left out: the status has arrived, and a garbled header must not undo it.
        """
        status, found, at, end = 0, {}, 0, len(block)
        try:
            while at < end:
                first = block[at]
                if first & 0x80:
                    index, at = _read_integer(block, at, 0x7F)
                    if index in _STATUSES:
                        status = _STATUSES[index]
                    elif not 0 < index <= _LAST_STATIC:
                        raise ValueError("a field of a table that we do not allow")
                    continue
                if first & 0x60 == 0x20:
                    size, at = _read_integer(block, at, 0x1F)
                    if size:
                        raise ValueError("a table that we do not allow")
                    continue
                index, at = _read_integer(block, at, 0x3F if first & 0x40 else 0x0F)
                if index > _LAST_STATIC:
                    raise ValueError("a name of a table that we do not allow")
                if index:
                    name = self._by_index.get(index)
                else:
                    compressed = block[at] & 0x80
                    length, at = _read_integer(block, at, 0x7F)
                    name = self._by_name.get((compressed, block[at : at + length]))
                    at += length
                compressed = block[at] & 0x80
                length, start = _read_integer(block, at, 0x7F)
                at = start + length
                if index in _STATUSES:
                    status = _status(_value(compressed, block[start:at]))
                elif name is not None and (value := _value(compressed, block[start:at])) is not None:
                    found[name] = value
        except IndexError:
            at = end + 1
        if at > end:
            raise ValueError("a header block breaks off")
        if not status:
            raise ValueError("an answer without a status")
        return status, found


def _read_integer(block: bytes, at: int, mask: int) -> tuple[int, int]:
    """(value, where it ends)."""
    value = block[at] & mask
    at += 1
    if value < mask:
        return value, at
    shift = 0
    while True:
        octet = block[at]
        at += 1
        value += (octet & 0x7F) << shift
        if octet < 0x80:
            return value, at
        shift += 7
        if shift > _MAX_INTEGER:
            raise ValueError("an integer without end")


def _value(compressed: int, octets: bytes) -> str | None:
    try:
        text = (decode_huffman(octets) if compressed else octets).decode("ascii")
    except (HPACKDecodingError, UnicodeDecodeError):
        return None
    return text if text.isprintable() else None


def _status(text: str | None) -> int:
    if text is None or len(text) != len("201") or not text.isdigit():
        raise ValueError("a status that is no number")
    return int(text)
