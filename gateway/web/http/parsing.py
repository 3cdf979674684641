"""Parse untrusted request bodies and queries into typed values.

All errors of an input are reported together, each with its JSON pointer (RFC 6901).
"""

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

# First and last year that a time may have.
MIN_YEAR, MAX_YEAR = 1970, 9000
# Numbers must be in [-MAX_NUMBER, MAX_NUMBER). Brokers transport 64-bit integers, and few clients parse larger ones.
MAX_NUMBER = 2**63
TOO_DEEP = "the body is nested too deeply"
# The validation context for a body that is known to be invalid. With it, validators also run checks that the service
# would run later, so that the response lists all errors.
COLLECT_ALL_ERRORS = {"collect_all_errors": True}

# Escapes of U+0000 and of surrogates, and numbers that may exceed MAX_NUMBER: bodies that contain them need
# `read_json`.
_ESCAPE_TO_CHECK = re.compile(rb"\\u(?:0000|[dD][89A-Fa-f])")
_NUMBER_TO_CHECK = re.compile(rb"[:,\[\s]-?[0-9](?:[0-9.]*[eE]|[0-9]{18})")


class Body(BaseModel):
    """A request body. Unknown fields are refused, and text is not converted to numbers."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    # Whether the fields of the model themselves refuse numbers beyond MAX_NUMBER. Then `read_body` need not search for
    # such numbers.
    bounds_numbers: ClassVar[bool] = False


def example(**values: Any) -> ConfigDict:
    """Return a model config with an example for the OpenAPI document."""
    return ConfigDict(json_schema_extra={"examples": [values]})


class Query(BaseModel):
    """Query parameters. All values are text, and are converted to numbers and other types."""

    model_config = ConfigDict(extra="forbid", frozen=True)


B = TypeVar("B", bound=Body)
Q = TypeVar("Q", bound=Query)


def read_body(model: type[B], raw: bytes) -> B:
    """Parse and validate a JSON body.

    Raises:
        MalformedBody: the body is not JSON.
        ValidationError: the body does not match the model, or contains values that cannot be stored.
    """
    if not _needs_value_checks(raw, model.bounds_numbers):
        try:
            return model.model_validate_json(raw)
        except pydantic.ValidationError:
            pass  # errors are reported below, in a fixed order: malformed JSON, unstorable values, schema violations
    read_json(raw)
    try:
        return model.model_validate_json(raw, context=COLLECT_ALL_ERRORS)
    except pydantic.ValidationError as error:
        if any(details["type"] == "json_invalid" for details in error.errors(include_url=False, include_input=False)):
            raise MalformedBody(TOO_DEEP) from None  # valid JSON, but pydantic's parser stops at 200 levels
        raise ValidationError(_field_errors(error)) from None


def _needs_value_checks(raw: bytes, bounds_numbers: bool) -> bool:
    """Return whether the body may contain constants that are not JSON, or values that cannot be stored.

    Only such a body needs `read_json`, which takes several times as long as the validation.
    """
    if b"\\u" in raw and _ESCAPE_TO_CHECK.search(raw):
        return True
    return b"NaN" in raw or b"Infinity" in raw or (not bounds_numbers and _NUMBER_TO_CHECK.search(raw) is not None)


def read_json(raw: bytes) -> Any:
    """Parse JSON.

    Raises:
        MalformedBody: the text is not JSON.
        ValidationError: the text contains values that Postgres cannot store.
    """
    if not raw.strip():
        raise MalformedBody("the body is empty; JSON is expected")
    try:
        value = json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant)
        errors = list(_storage_errors(value, ""))
    except UnicodeDecodeError:
        raise MalformedBody("the body is not UTF-8") from None
    except RecursionError:
        raise MalformedBody(TOO_DEEP) from None
    except json.JSONDecodeError as error:
        raise MalformedBody(f"the body is not JSON: {error.msg} (line {error.lineno}, column {error.colno})") from None
    except ValueError as error:
        raise MalformedBody(f"the body is not JSON: {error}") from None
    if errors:
        raise ValidationError(errors)
    return value


def read_query(model: type[Q], pairs: list[tuple[str, str]]) -> Q:
    """Validate query parameters.

    Raises:
        ValidationError: a parameter is repeated, unknown or invalid.
    """
    values = dict(pairs)
    errors = [
        FieldError(f"/query/{name}", "is given twice") for name in values if [n for n, _ in pairs].count(name) > 1
    ]
    errors += [error.with_prefix("/query") for error in _storage_errors(values, "")]
    if errors:
        raise ValidationError(errors)
    try:
        return model.model_validate(values)
    except pydantic.ValidationError as error:
        raise ValidationError([field_error.with_prefix("/query") for field_error in _field_errors(error)]) from None


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not a JSON number")


def _storage_errors(value: object, pointer: str) -> Iterator[FieldError]:
    """Yield an error for each value that cannot be stored.

    Postgres stores neither U+0000 nor unpaired surrogates. Python parses 1e999 as infinity, which JSON does not have.
    Postgres returns a number such as 1e30 as an integer with all its digits, which few clients parse.
    """
    match value:
        case str():
            if not _is_storable(value):
                yield FieldError(pointer, "must not contain U+0000 or an unpaired surrogate")
        case int() | float():
            if not -MAX_NUMBER <= value < MAX_NUMBER:
                yield FieldError(pointer, "is too large a number")
        case dict():
            for name, item in value.items():
                if not _is_storable(name):
                    yield FieldError(pointer, "must not have a name with U+0000 or an unpaired surrogate")
                else:
                    yield from _storage_errors(item, pointer + pointer_step(name))
        case list():
            for index, item in enumerate(value):
                yield from _storage_errors(item, f"{pointer}/{index}")


def _is_storable(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= c <= "\udfff" for c in text)


def combine_errors(errors: list[FieldError]) -> PydanticCustomError:
    """Return an exception with which a pydantic validator reports several errors."""
    return PydanticCustomError("several", "has errors", {"errors": errors})


def _field_errors(error: pydantic.ValidationError) -> list[FieldError]:
    """Convert the errors of pydantic to those of the gateway."""
    errors: list[FieldError] = []
    for details in error.errors(include_url=False, include_input=False):
        pointer = "".join(pointer_step(part) for part in details["loc"] if part != "[key]")
        if details["type"] == "several":
            errors += [field_error.with_prefix(pointer) for field_error in details["ctx"]["errors"]]
        else:
            errors.append(FieldError(pointer, _describe(details["type"], details["msg"])))
    return errors


def _describe(error_type: str, message: str) -> str:
    """Return pydantic's message in the form of the gateway's messages: a predicate, such as `must be an integer`."""
    match error_type:
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
    for prefix, replacement in (("Input should be ", "must be "), ("Input should have ", "must have ")):
        message = message.replace(prefix, replacement)
    for type_name in ("String", "List", "Dictionary", "Tuple", "Value"):
        if message.startswith(type_name):
            message = message.removeprefix(f"{type_name} should ").removeprefix("have ")
    return message if message.startswith("must") else f"must have {message}" if message.startswith("at ") else message


def _to_utc(time: datetime) -> datetime:
    """Convert a time to UTC. Limits the year, so that adding the lifetime of a notification cannot overflow."""
    if not MIN_YEAR <= time.year <= MAX_YEAR:
        raise ValueError(f"must be between the years {MIN_YEAR} and {MAX_YEAR}")
    return time.astimezone(UTC)


def _refuse_number(value: object) -> object:
    """Refuse text such as 0.5, which pydantic would interpret as seconds since 1970."""
    if isinstance(value, str) and value[4:5] != "-":
        raise ValueError("must be a time such as 2026-12-01T09:00:00Z (RFC 3339)")
    return value


def _decode_octets(value: object) -> bytes:
    if not isinstance(value, str):
        raise ValueError("must be base64url text")
    return decode_base64url(value)


def _check_topic(name: str) -> str:
    if not TOPIC_NAME.fullmatch(name):
        raise ValueError("must be 1 to 64 letters, digits or _.:~- and begin with a letter or digit")
    return name


def _check_zone(code: str) -> str:
    if not ZONE_CODE.fullmatch(code):
        raise ValueError("must be 1 to 64 letters, digits or _.:/~- and begin with a letter or digit")
    return code


def _check_url_or_template(url: str) -> str:
    return url if has_markup(url) else _check_url(url)


def _check_url(url: str) -> str:
    if (error := urls.find_url_error(url)) is not None:
        raise ValueError(error)
    return url


# A time in RFC 3339 with an offset; converted to UTC.
Moment = Annotated[AwareDatetime, AfterValidator(_to_utc)]
# A `Moment` in a query, where every value is text.
QueryMoment = Annotated[AwareDatetime, BeforeValidator(_refuse_number), AfterValidator(_to_utc)]
Octets = Annotated[bytes, PlainValidator(_decode_octets), WithJsonSchema({"type": "string", "format": "base64url"})]
Topic = Annotated[
    str, AfterValidator(_check_topic), WithJsonSchema({"type": "string", "pattern": f"^{TOPIC_NAME.pattern}$"})
]
Zone = Annotated[
    str, AfterValidator(_check_zone), WithJsonSchema({"type": "string", "pattern": f"^{ZONE_CODE.pattern}$"})
]
UrlOrTemplate = Annotated[
    str,
    AfterValidator(_check_url_or_template),
    WithJsonSchema(
        {"type": "string", "maxLength": urls.MAX_URL_LENGTH, "description": "A URL, or a Liquid template of one."}
    ),
]
Url = Annotated[
    str,
    AfterValidator(_check_url),
    WithJsonSchema({"type": "string", "format": "uri-reference", "maxLength": urls.MAX_URL_LENGTH}),
]
