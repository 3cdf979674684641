"""From untrusted octets to typed values; every fault is named at once, with its JSON pointer (RFC 6901)."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, TypeVar

import pydantic
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainValidator,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from gateway.content.templates import has_markup
from gateway.domain import urls
from gateway.domain.device import TOPIC_NAME, ZONE_CODE
from gateway.domain.errors import FieldError, MalformedBody, ValidationError, pointer_step
from gateway.push.encryption import decode_base64url

EARLIEST, LATEST = 1970, 9000
TOO_DEEP = "the body is nested too deeply"
THOROUGH = {"thorough": True}
"""The context in which validators also find what the service would: something is wrong, and all of it is to be told."""

_RARE_ESCAPE = re.compile(rb"\\u(?:0000|[dD][89A-Fa-f])")
# What 64 bits may be too few for, when it is a whole number: brokers carry no more, and few clients read as much.
_RARE_NUMBER = re.compile(rb"[:,\[\s]-?[0-9](?:[0-9.]*[eE]|[0-9]{18})")
MAX_NUMBER = 2**63


class Body(BaseModel):
    """A request body: unknown fields are refused, and text is not taken for a number."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    bounds_numbers: ClassVar[bool] = False
    """Whether it refuses every number that is too large by itself, so that its octets need not be searched for one."""


def example(**values: Any) -> ConfigDict:
    """What a body may look like, for the document: `model_config = example(name="Autumn")`."""
    return ConfigDict(json_schema_extra={"examples": [values]})


class Query(BaseModel):
    """Query parameters. They are all text, so that this is where numbers are read from it."""

    model_config = ConfigDict(extra="forbid", frozen=True)


B = TypeVar("B", bound=Body)
Q = TypeVar("Q", bound=Query)


def read_body(model: type[B], raw: bytes) -> B:
    """Raises MalformedBody when it is no JSON, Invalid when it is not what `model` wants."""
    if not _may_say_too_much(raw, model.bounds_numbers):
        try:
            return model.model_validate_json(raw)
        except pydantic.ValidationError:
            pass  # what is wrong is found out below, in the one order: no JSON, not to be kept, not wanted
    read_json(raw)
    try:
        return model.model_validate_json(raw, context=THOROUGH)
    except pydantic.ValidationError as error:
        if any(fault["type"] == "json_invalid" for fault in error.errors(include_url=False, include_input=False)):
            raise MalformedBody(TOO_DEEP) from None  # JSON it is; this parser goes 200 levels down
        raise ValidationError(_faults(error)) from None


def _may_say_too_much(raw: bytes, bounds_numbers: bool) -> bool:
    """Whether it may be more than JSON, or say what cannot be kept: only then `read_json` must look at every value,
    which takes several times as long as validating it."""
    if b"\\u" in raw and _RARE_ESCAPE.search(raw):
        return True
    return b"NaN" in raw or b"Infinity" in raw or (not bounds_numbers and _RARE_NUMBER.search(raw) is not None)


def read_json(raw: bytes) -> Any:
    """Raises MalformedBody, and Invalid for what JSON may say but Postgres cannot keep."""
    if not raw.strip():
        raise MalformedBody("the body is empty; JSON is expected")
    try:
        value = json.loads(raw.decode("utf-8"), parse_constant=_refuse)
        faults = list(_unkeepable(value, ""))
    except UnicodeDecodeError:
        raise MalformedBody("the body is not UTF-8") from None
    except RecursionError:
        raise MalformedBody(TOO_DEEP) from None
    except json.JSONDecodeError as error:
        raise MalformedBody(f"the body is not JSON: {error.msg} (line {error.lineno}, column {error.colno})") from None
    except ValueError as error:
        raise MalformedBody(f"the body is not JSON: {error}") from None
    if faults:
        raise ValidationError(faults)
    return value


def read_query(model: type[Q], pairs: list[tuple[str, str]]) -> Q:
    """Raises Invalid."""
    values = dict(pairs)
    faults = [
        FieldError(f"/query/{name}", "is given twice") for name in values if [n for n, _ in pairs].count(name) > 1
    ]
    faults += [fault.with_prefix("/query") for fault in _unkeepable(values, "")]
    if faults:
        raise ValidationError(faults)
    try:
        return model.model_validate(values)
    except pydantic.ValidationError as error:
        raise ValidationError([fault.with_prefix("/query") for fault in _faults(error)]) from None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a JSON number")


def _unkeepable(value: object, at: str) -> Iterator[FieldError]:
    """Postgres keeps neither U+0000 nor lone surrogates, JSON cannot say infinity again (1e999), and a whole number
    such as 1e30 comes out of Postgres with all its digits."""
    match value:
        case str():
            if not _is_keepable(value):
                yield FieldError(at, "holds a character that cannot be kept: U+0000 or half a surrogate pair")
        case int() | float():
            if not -MAX_NUMBER <= value < MAX_NUMBER:
                yield FieldError(at, "is too large a number")
        case dict():
            for name, item in value.items():
                if not _is_keepable(name):
                    yield FieldError(at, "has a name with U+0000 or half a surrogate pair")
                else:
                    yield from _unkeepable(item, at + pointer_step(name))
        case list():
            for index, item in enumerate(value):
                yield from _unkeepable(item, f"{at}/{index}")


def _is_keepable(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= c <= "\udfff" for c in text)


def several(faults: list[FieldError]) -> PydanticCustomError:
    """For a validator that has found more than one fault in its value."""
    return PydanticCustomError("several", "has faults", {"faults": faults})


def _faults(error: pydantic.ValidationError) -> list[FieldError]:
    found: list[FieldError] = []
    for fault in error.errors(include_url=False, include_input=False):
        pointer = "".join(pointer_step(part) for part in fault["loc"] if part != "[key]")
        if fault["type"] == "several":
            found += [one.below(pointer) for one in fault["ctx"]["faults"]]
        else:
            found.append(FieldError(pointer, _in_words(fault["type"], fault["msg"])))
    return found


def _in_words(kind: str, message: str) -> str:
    match kind:
        case "missing":
            return "is missing"
        case "extra_forbidden":
            return "is not known here"
        case "model_type" | "model_attributes_type" | "dict_type":
            return "must be an object"
        case "value_error":
            return message.removeprefix("Value error, ")
        case "timezone_aware":
            return "must have an offset, such as 2026-12-01T09:00:00Z"
    for said, ours in (("Input should be ", "must be "), ("Input should have ", "must have ")):
        message = message.replace(said, ours)
    for kind_of in ("String", "List", "Dictionary", "Tuple", "Value"):
        message = (
            message.removeprefix(f"{kind_of} should ").removeprefix("have ") if message.startswith(kind_of) else message
        )
    return message if message.startswith("must") else f"must have {message}" if message.startswith("at ") else message


def _utc(moment: datetime) -> datetime:
    """In UTC; not so far off that adding or subtracting a notification's life would leave the calendar."""
    if not EARLIEST <= moment.year <= LATEST:
        raise ValueError(f"must lie between the years {EARLIEST} and {LATEST}")
    return moment.astimezone(UTC)


def _no_number(value: object) -> object:
    """Pydantic would take text such as 0.5 for seconds since 1970."""
    if isinstance(value, str) and value[4:5] != "-":
        raise ValueError("must be a time such as 2026-12-01T09:00:00Z (RFC 3339)")
    return value


def _octets(value: object) -> bytes:
    if not isinstance(value, str):
        raise ValueError("must be base64url text")
    return decode_base64url(value)


def _topic(name: str) -> str:
    if not TOPIC_NAME.fullmatch(name):
        raise ValueError("must be 1 to 64 letters, digits or _.:~- and begin with a letter or digit")
    return name


def _zone(code: str) -> str:
    if not ZONE_CODE.fullmatch(code):
        raise ValueError("must be 1 to 64 letters, digits or _.:/~- and begin with a letter or digit")
    return code


def _template_of_address(url: str) -> str:
    return url if has_markup(url) else _address(url)


def _address(url: str) -> str:
    if (fault := urls.find_url_error(url)) is not None:
        raise ValueError(fault)
    return url


Moment = Annotated[AwareDatetime, AfterValidator(_utc)]
"""RFC 3339 with an offset; UTC inside."""
AskedMoment = Annotated[AwareDatetime, BeforeValidator(_no_number), AfterValidator(_utc)]
"""The same in a query, where all is text."""
Octets = Annotated[bytes, PlainValidator(_octets), WithJsonSchema({"type": "string", "format": "base64url"})]
Topic = Annotated[str, AfterValidator(_topic), WithJsonSchema({"type": "string", "pattern": f"^{TOPIC_NAME.pattern}$"})]
Zone = Annotated[str, AfterValidator(_zone), WithJsonSchema({"type": "string", "pattern": f"^{ZONE_CODE.pattern}$"})]
UrlOrTemplate = Annotated[
    str,
    AfterValidator(_template_of_address),
    WithJsonSchema({"type": "string", "maxLength": urls.MAX_URL_LENGTH, "description": "An address, or its template."}),
]
Address = Annotated[
    str,
    AfterValidator(_address),
    WithJsonSchema({"type": "string", "format": "uri-reference", "maxLength": urls.MAX_URL_LENGTH}),
]
