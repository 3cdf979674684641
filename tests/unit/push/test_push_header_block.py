"""Header blocks, held to an independent HPACK."""

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.push.header_block import TABLE_SIZE, HeaderDecoder, HeaderEncoder

FIELDS = ((b":scheme", b"https"), (b":authority", b"push.example.org"), (b"urgency", b"high"), (b"topic", b"T" * 32))
NAMES = ("location", "ttl", "retry-after", "x-wns-status")
TEXT = st.text("abc-XYZ019 /:", min_size=0, max_size=300).map(str.encode)


def told(fields: tuple[tuple[bytes, bytes], ...], path: bytes, ttl: int, length: int) -> list[tuple[bytes, bytes]]:
    rest = [(b"ttl", b"%d" % ttl), (b"content-length", b"%d" % length)]
    return [(b":method", b"POST"), (b":path", path), *fields, *rest]


@given(
    st.lists(st.tuples(st.integers(0, 12), TEXT, st.integers(0, 10**9), st.integers(0, 4096)), max_size=60), st.data()
)
def test_any_run_of_requests_reads_as_it_was_meant(
    posts: list[tuple[int, bytes, int, int]], data: st.DataObject
) -> None:
    """With more applications than the table holds, and a push service that wants a smaller one in the middle."""
    writer, decoder = HeaderEncoder(), hpack.Decoder()
    for which, path, ttl, length in posts:
        if data.draw(st.integers(0, 9)) == 0:
            size = data.draw(st.sampled_from([0, 100, 1000, TABLE_SIZE, 2 * TABLE_SIZE]))
            writer.limit_table_size(size)
            decoder.max_allowed_table_size = min(size, decoder.max_allowed_table_size)
        fields = (*FIELDS, (b"authorization", b"vapid t=%d" % which + b"x" * 700))
        block = writer.encode_post(path, fields, ttl, length)
        assert decoder.decode(block, raw=True) == told(fields, path, ttl, length)


def test_what_was_told_once_takes_an_octet_a_field_and_the_path_is_remembered_by_nobody() -> None:
    writer, decoder = HeaderEncoder(), hpack.Decoder()
    first, second, third = (writer.encode_post(b"/secret", FIELDS, 60, 300) for _ in range(3))
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
def test_any_answer_is_read_for_what_is_asked(status: int, headers: list[tuple[str, bytes]], huffman: bool) -> None:
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    block = encoder.encode([(":status", str(status)), *((name, value) for name, value in headers)], huffman=huffman)
    wanted = {name: value.decode() for name, value in headers if name in NAMES}
    assert HeaderDecoder(NAMES).decode(block) == (status, wanted)


def test_a_value_that_is_no_text_is_left_out() -> None:
    encoder = hpack.Encoder()
    block = encoder.encode([(":status", "201"), ("location", b"/\xe4\xff"), ("ttl", b"5\n"), ("retry-after", "3")])
    assert HeaderDecoder(NAMES).decode(block) == (201, {"retry-after": "3"})


@pytest.mark.parametrize(
    "block",
    [
        b"",  # no status
        b"\x88\xbe",  # an entry of the dynamic table
        b"\x88\x7f\x00\x01x",  # a name of it
        b"\x3f\xe1\x1f\x88",  # a table of 4,096 octets
        b"\x80",  # index 0
        b"\x48",  # a value is missing
        b"\x48\x03\x32\x30",  # it breaks off
        b"\x48\x02no",
        b"\x48\x03abc",
        b"\x88\x00\x7f\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # an integer without end
    ],
)
def test_what_is_no_block_of_an_answer_is_refused(block: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        HeaderDecoder(NAMES).decode(block)


@given(st.binary(max_size=200))
def test_no_octets_do_worse_than_be_refused(block: bytes) -> None:
    try:
        status, headers = HeaderDecoder(NAMES).decode(block)
    except ValueError:
        return
    assert 0 <= status <= 999
    assert headers.keys() <= {*NAMES}
