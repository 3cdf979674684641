"""Header compression for HTTP/2 (HPACK, RFC 7541). It supports only what is needed to post push messages.

A general HPACK library would cost as much per message as the encryption. Here, the fields that all messages of an
application share are encoded once; later each of them takes one octet. The gateway disables the dynamic table for
responses (SETTINGS_HEADER_TABLE_SIZE is 0). So each response header block can be decoded alone, and fields that the
gateway does not use are skipped.
"""

from collections import OrderedDict

from hpack import HPACKDecodingError
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from gateway.domain.bounded_cache import put

Field = tuple[bytes, bytes]

# Size in octets of the dynamic table for requests, unless the push service allows less (RFC 9113 section 6.5.2).
TABLE_SIZE = 4096

# The static table (RFC 7541 appendix A), and the index of each of its fields, names and statuses.
_STATIC: tuple[Field, ...] = HeaderTable.STATIC_TABLE
_LAST_STATIC = len(_STATIC)
_STATIC_FIELDS = {field: index for index, field in reversed([*enumerate(_STATIC, 1)])}
_STATIC_NAMES = {name: index for index, (name, _) in reversed([*enumerate(_STATIC, 1)])}
_STATUSES = {index: int(value) for index, (name, value) in enumerate(_STATIC, 1) if name == b":status"}
# RFC 7541 section 4.1: overhead counted for each table entry.
_ENTRY_OVERHEAD = 32
_METHOD = bytes([0x80 | _STATIC_FIELDS[b":method", b"POST"]])
# Literal never indexed (section 7.1.3): an endpoint is a secret, so intermediaries must not store it either.
_PATH = bytes([0x10 | _STATIC_NAMES[b":path"]])
# Literal without indexing (section 6.2.2) with a new name of 3 octets. `_CONTENT_LENGTH` is one with a static name.
_TTL = b"\x00\x03ttl"
_MAX_INTEGER_SHIFT = 28
_MAX_BLOCKS = 256


def _encode_integer(value: int, bits: int, first: int = 0) -> bytes:
    """Encode an integer (section 5.1) in the low `bits` bits of the first octet, whose other bits are `first`."""
    limit = (1 << bits) - 1
    if value < limit:
        return bytes([first | value])
    octets = [first | limit]
    value -= limit
    while value >= 0x80:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*octets, value])


def _encode_string(octets: bytes) -> bytes:
    """Encode a string literal without Huffman coding (section 5.2).

    Huffman coding would save little: long values are sent once per connection, or are random text.
    """
    return _encode_integer(len(octets), 7) + octets


_CONTENT_LENGTH = _encode_integer(_STATIC_NAMES[b"content-length"], 4)


class HeaderEncoder:
    """Encodes the headers of requests on one connection, with the connection's dynamic table."""

    def __init__(self) -> None:
        """Start with an empty dynamic table."""
        self._max_size = TABLE_SIZE
        self._used = 0
        self._insert_count = 0
        # Insertion number of each entry; the first entry ever inserted has number 1.
        self._table: OrderedDict[Field, int] = OrderedDict()
        # Encoded blocks by their fields; valid until the next insertion into the table.
        self._blocks: dict[tuple[Field, ...], bytes] = {}
        self._size_update = b""

    def encode_post(self, path: bytes, fields: tuple[Field, ...], ttl: int, length: int) -> bytes:
        """Return the header block of a POST.

        Args:
            path: the `:path`.
            fields: in order, `:scheme` and `:authority` first.
            ttl: the TTL header, in seconds.
            length: the content length, in octets.
        """
        block = self._blocks.get(fields)
        if block is None:
            block = self._encode_fields(fields)
        size_update, self._size_update = self._size_update, b""
        ttl_, length_ = str(ttl).encode(), str(length).encode()
        return b"".join(
            (
                size_update,
                _METHOD,
                _PATH,
                _encode_string(path),
                block,
                _TTL,
                _encode_string(ttl_),
                _CONTENT_LENGTH,
                _encode_string(length_),
            )
        )

    def limit_table_size(self, size: int) -> None:
        """Apply the push service's limit in octets (SETTINGS_HEADER_TABLE_SIZE)."""
        if size < self._max_size:
            self._max_size = size
            self._evict_for(0)
            self._blocks.clear()
            self._size_update = _encode_integer(size, 5, 0x20)

    def _encode_fields(self, fields: tuple[Field, ...]) -> bytes:
        count_before = self._insert_count
        block = b"".join(map(self._encode_field, fields))
        if count_before == self._insert_count:
            put(self._blocks, fields, block, _MAX_BLOCKS)
        else:
            self._blocks.clear()
        return block

    def _encode_field(self, field: Field) -> bytes:
        if (index := _STATIC_FIELDS.get(field)) is not None:
            return _encode_integer(index, 7, 0x80)
        if (number := self._table.get(field)) is not None:
            return _encode_integer(_LAST_STATIC + 1 + self._insert_count - number, 7, 0x80)
        name, value = field
        index = _STATIC_NAMES.get(name, 0)
        rest = _encode_string(value) if index else _encode_string(name) + _encode_string(value)
        size = len(name) + len(value) + _ENTRY_OVERHEAD
        if size > self._max_size:
            return _encode_integer(index, 4) + rest
        self._evict_for(size)
        self._insert_count += 1
        self._table[field] = self._insert_count
        self._used += size
        return _encode_integer(index, 6, 0x40) + rest

    def _evict_for(self, size: int) -> None:
        while self._used + size > self._max_size:
            (name, value), _ = self._table.popitem(last=False)
            self._used -= len(name) + len(value) + _ENTRY_OVERHEAD


class HeaderDecoder:
    """Decodes the status of a response and the headers with the given lower-case names."""

    def __init__(self, names: tuple[str, ...]) -> None:
        """Precompute the encoded forms of the names."""
        huffman = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)
        encoded = [(name, name.encode()) for name in names]
        self._by_index = {_STATIC_NAMES[raw]: name for name, raw in encoded if raw in _STATIC_NAMES}
        # Keyed by the Huffman flag (the first bit of the length octet) and the encoded name.
        self._by_name = {(0, raw): name for name, raw in encoded} | {
            (0x80, huffman.encode(raw)): name for name, raw in encoded
        }

    def decode(self, block: bytes) -> tuple[int, dict[str, str]]:
        """Return (status, headers).

        A header whose value is not printable ASCII is skipped; the status and the other headers are still returned.

        Raises:
            ValueError: the block is not a valid header block of a response.
        """
        status, headers, at, end = 0, {}, 0, len(block)
        try:
            while at < end:
                first = block[at]
                if first & 0x80:
                    index, at = _read_integer(block, at, 0x7F)
                    if index in _STATUSES:
                        status = _STATUSES[index]
                    elif not 0 < index <= _LAST_STATIC:
                        raise ValueError("a field of a dynamic table, which is disabled")
                    continue
                if first & 0x60 == 0x20:
                    size, at = _read_integer(block, at, 0x1F)
                    if size:
                        raise ValueError("a dynamic table, which is disabled")
                    continue
                index, at = _read_integer(block, at, 0x3F if first & 0x40 else 0x0F)
                if index > _LAST_STATIC:
                    raise ValueError("a name of a dynamic table, which is disabled")
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
                    status = _parse_status(_decode_value(compressed, block[start:at]))
                elif name is not None and (value := _decode_value(compressed, block[start:at])) is not None:
                    headers[name] = value
        except IndexError:
            at = end + 1
        if at > end:
            raise ValueError("the header block is truncated")
        if not status:
            raise ValueError("a response without a status")
        return status, headers


def _read_integer(block: bytes, at: int, mask: int) -> tuple[int, int]:
    """Return (value, offset after the integer)."""
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
        if shift > _MAX_INTEGER_SHIFT:
            raise ValueError("an integer is too long")


def _decode_value(compressed: int, octets: bytes) -> str | None:
    try:
        text = (decode_huffman(octets) if compressed else octets).decode("ascii")
    except (HPACKDecodingError, UnicodeDecodeError):
        return None
    return text if text.isprintable() else None


def _parse_status(text: str | None) -> int:
    if text is None or len(text) != len("201") or not text.isdigit():
        raise ValueError("the status is not a number")
    return int(text)
