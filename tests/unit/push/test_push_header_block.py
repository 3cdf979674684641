"""Encoding and decoding of header blocks, compared with an independent HPACK library."""

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.push.header_block import TABLE_SIZE, HeaderDecoder, HeaderEncoder

FIELDS = ((b":scheme", b"https"), (b":authority", b"push.example.org"), (b"urgency", b"high"), (b"topic", b"T" * 32))
NAMES = ("location", "ttl", "retry-after", "x-wns-status")
TEXT = st.text("abc-XYZ019 /:", min_size=0, max_size=300).map(str.encode)


def expected_fields(
    fields: tuple[tuple[bytes, bytes], ...], path: bytes, ttl: int, length: int
) -> list[tuple[bytes, bytes]]:
    rest = [(b"ttl", b"%d" % ttl), (b"content-length", b"%d" % length)]
    return [(b":method", b"POST"), (b":path", path), *fields, *rest]


@given(
    st.lists(st.tuples(st.integers(0, 12), TEXT, st.integers(0, 10**9), st.integers(0, 4096)), max_size=60), st.data()
)
def test_encoded_requests_decode_with_hpack(posts: list[tuple[int, bytes, int, int]], data: st.DataObject) -> None:
    """The requests have more authorization headers than fit in the dynamic table, whose size limit changes."""
    encoder, decoder = HeaderEncoder(), hpack.Decoder()
    for application, path, ttl, length in posts:
        if data.draw(st.integers(0, 9)) == 0:
            size = data.draw(st.sampled_from([0, 100, 1000, TABLE_SIZE, 2 * TABLE_SIZE]))
            encoder.limit_table_size(size)
            decoder.max_allowed_table_size = min(size, decoder.max_allowed_table_size)
        fields = (*FIELDS, (b"authorization", b"vapid t=%d" % application + b"x" * 700))
        block = encoder.encode_post(path, fields, ttl, length)
        assert decoder.decode(block, raw=True) == expected_fields(fields, path, ttl, length)


def test_repeated_fields_take_one_octet_each() -> None:
    """Repeated fields are indices of the dynamic table; the path, which is secret, is never added to the table."""
    encoder, decoder = HeaderEncoder(), hpack.Decoder()
    first, second, third = (encoder.encode_post(b"/secret", FIELDS, 60, 300) for _ in range(3))
    assert (len(second), second) == (len(b"/secret") + 2 + 1 + len(FIELDS) + 8 + 6, third)
    assert len(first) > 2 * len(second)
    [path] = [field for field in decoder.decode(first, raw=True) if field[0] == b":path"]
    assert not path.indexable
    assert all(name != b":path" for name, _ in decoder.header_table.dynamic_entries)


@given(
    st.sampled_from([200, 201, 204, 302, 404, 410, 429, 503]),
    st.lists(
        st.tuples(st.sampled_from([*NAMES, "date", "server", "x-other", "set-cookie"]), TEXT.filter(bool)), max_size=12
    ),
    st.booleans(),
)
def test_decoder_returns_requested_headers(status: int, headers: list[tuple[str, bytes]], huffman: bool) -> None:
    """The decoder returns the status and the headers in NAMES of a block that hpack encoded."""
    hpack_encoder = hpack.Encoder()
    hpack_encoder.header_table_size = 0
    block = hpack_encoder.encode(
        [(":status", str(status)), *((name, value) for name, value in headers)], huffman=huffman
    )
    expected = {name: value.decode() for name, value in headers if name in NAMES}
    assert HeaderDecoder(NAMES).decode(block) == (status, expected)


def test_non_text_header_value_is_dropped() -> None:
    """A header whose value has octets that are not visible ASCII is left out."""
    hpack_encoder = hpack.Encoder()
    block = hpack_encoder.encode(
        [(":status", "201"), ("location", b"/\xe4\xff"), ("ttl", b"5\n"), ("retry-after", "3")]
    )
    assert HeaderDecoder(NAMES).decode(block) == (201, {"retry-after": "3"})


@pytest.mark.parametrize(
    "block",
    [
        b"",  # no status
        b"\x88\xbe",  # an entry of the dynamic table
        b"\x88\x7f\x00\x01x",  # a name from the dynamic table
        b"\x3f\xe1\x1f\x88",  # a change of the table size to 4,096 octets
        b"\x80",  # index 0
        b"\x48",  # a value is missing
        b"\x48\x03\x32\x30",  # a truncated value
        b"\x48\x02no",  # a status of two characters
        b"\x48\x03abc",  # a status that is not a number
        b"\x88\x00\x7f\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # an integer of too many octets
    ],
)
def test_invalid_header_block_is_rejected(block: bytes) -> None:
    """A block that violates HPACK raises ValueError."""
    with pytest.raises(ValueError, match=r"\w"):
        HeaderDecoder(NAMES).decode(block)


@given(st.binary(max_size=200))
def test_decoder_survives_random_octets(block: bytes) -> None:
    """Decoding random octets returns a status and headers in NAMES, or raises ValueError."""
    try:
        status, headers = HeaderDecoder(NAMES).decode(block)
    except ValueError:
        return
    assert 0 <= status <= 999
    assert headers.keys() <= {*NAMES}
