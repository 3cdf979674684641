"""Parsing of JSON bodies: the fast parser of `read_body` agrees with the slower, complete parser of `read_json`."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.errors import GatewayError
from gateway.web.http.parsing import Body, read_body, read_json

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


class Anything(Body):
    value: Any


@pytest.mark.parametrize(
    "value",
    [
        *("1e999", "-1E999", "[1, 1e+999]", '{"a": 1.5e999}', "1" + "0" * 400 + ".0", "-1" + "0" * 5000),
        *("NaN", "Infinity", "[-Infinity]"),
        *('"\\u0000"', '"\\ud800"', '"\\uDFFF"', '{"\\u0000": 1}', '"\\ud83d"', '["a\\u0000b"]'),
        *('"\0"', '"\x01"', "'a'", "01", "[1,]", "+1", ".5", '"a', "tru", "//", '"\\x41"'),
    ],
)
def test_invalid_json_or_unstorable_value_is_refused(value: str) -> None:
    """Malformed JSON and values that Postgres cannot store raise GatewayError."""
    with pytest.raises(GatewayError):
        read_body(Anything, f'{{"value": {value}}}'.encode())


@pytest.mark.parametrize("value", ['"\\u00e4"', '"\\ud83d\\ude00"', '"\\\\u0000"', "1e18", '"1e999 NaN"', '"Infinity"'])
def test_value_resembling_unstorable_one_is_accepted(value: str) -> None:
    """Escapes, numbers and texts with a part that looks unstorable are accepted unchanged."""
    assert read_body(Anything, f'{{"value": {value}}}'.encode()).value == json.loads(value)


@given(value=JSON, ascii_=st.booleans())
def test_read_body_agrees_with_read_json(value: Any, ascii_: bool) -> None:
    """`read_body` accepts exactly what `read_json` accepts, and returns the same value."""
    raw = json.dumps({"value": value}, ensure_ascii=ascii_).encode("utf-8", "surrogatepass")
    try:
        expected = read_json(raw)["value"]
    except GatewayError as error:
        with pytest.raises(type(error)):
            read_body(Anything, raw)
    else:
        assert read_body(Anything, raw).value == expected
