"""Bodies: what is looked through closely only now and then is refused all the same."""

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
    said: Any


@pytest.mark.parametrize(
    "value",
    [
        *("1e999", "-1E999", "[1, 1e+999]", '{"a": 1.5e999}', "1" + "0" * 400 + ".0", "-1" + "0" * 5000),
        *("NaN", "Infinity", "[-Infinity]"),
        *('"\\u0000"', '"\\ud800"', '"\\uDFFF"', '{"\\u0000": 1}', '"\\ud83d"', '["a\\u0000b"]'),
        *('"\0"', '"\x01"', "'a'", "01", "[1,]", "+1", ".5", '"a', "tru", "//", '"\\x41"'),
    ],
)
def test_what_is_no_json_or_cannot_be_kept_is_refused(value: str) -> None:
    with pytest.raises(GatewayError):
        read_body(Anything, f'{{"said": {value}}}'.encode())


@pytest.mark.parametrize("value", ['"\\u00e4"', '"\\ud83d\\ude00"', '"\\\\u0000"', "1e18", '"1e999 NaN"', '"Infinity"'])
def test_what_only_looks_like_it_is_taken(value: str) -> None:
    assert read_body(Anything, f'{{"said": {value}}}'.encode()).said == json.loads(value)


@given(said=JSON, ascii_=st.booleans())
def test_what_is_taken_is_what_a_close_look_takes(said: Any, ascii_: bool) -> None:
    raw = json.dumps({"said": said}, ensure_ascii=ascii_).encode("utf-8", "surrogatepass")
    try:
        expected = read_json(raw)["said"]
    except GatewayError as refusal:
        with pytest.raises(type(refusal)):
            read_body(Anything, raw)
    else:
        assert read_body(Anything, raw).said == expected
