"""The SDK's type declarations admit the values that the API returns, and have the fields that the API accepts."""

import re
from datetime import datetime
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from pydantic import BaseModel
from typing_extensions import is_typeddict

from gateway.service import views
from gateway.web.api import devices

DECLARATIONS = (Path(__file__).parents[2] / "gateway/static/sdk/webpush.d.ts").read_text()

# Interfaces that the SDK returns, and the types of the API's responses.
RETURNED: dict[str, Any] = {
    "Preference": views.Preference,
    "InboxItem": views.InboxItem,
    "Inbox": views.Inbox,
}
# Interfaces that an application passes to the SDK, and the request models of the API.
PASSED: dict[str, type[BaseModel]] = {
    "Location": devices.Location,
    "Client": devices.Client,
    "Registration": devices.NewDevice,
}
# Fields of a registration that the SDK itself fills in.
FILLED_IN = {"subscription", "muted", "vapid_public_key", "device_token"}
PRIMITIVES = {str: "string", bool: "boolean", int: "number", float: "number", datetime: "string", NoneType: "null"}


def read_interface(name: str) -> dict[str, str]:
    """Return the types of an interface's members by name."""
    match = re.search(rf"export interface {name} {{\n(.*?)\n}}", DECLARATIONS, re.DOTALL)
    assert match is not None, name
    body = re.sub(r"/\*\*.*?\*/", "", match[1], flags=re.DOTALL)
    return dict(re.findall(r"^  (\w+)\??: (.+);$", body, re.MULTILINE))


def split_union(declared: str) -> set[str]:
    """Return the members of a union type; an object literal is one member."""
    return {member.strip() for member in re.split(r"\|(?![^{]*})", declared)}


def is_admitted(hint: Any, declared: set[str]) -> bool:
    """Whether a declared union admits every value of a Python type."""
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return all(is_admitted(member, declared) for member in get_args(hint))
    if origin is Literal or (isinstance(hint, type) and issubclass(hint, Enum)):
        return "string" in declared
    if origin is list:
        [member] = get_args(hint)
        return any(is_admitted(member, {type_.removesuffix("[]")}) for type_ in declared if type_.endswith("[]"))
    if origin is dict:
        return any(type_.startswith(("{", "Record<")) for type_ in declared)
    if is_typeddict(hint):
        return hint.__name__ in declared
    return PRIMITIVES[hint] in declared


@pytest.mark.parametrize(("name", "view"), RETURNED.items(), ids=RETURNED)
def test_declared_interface_admits_its_view(name: str, view: Any) -> None:
    """An interface has the members of its view, and each member's type admits the values of the view."""
    members, hints = read_interface(name), get_type_hints(view)
    assert members.keys() == hints.keys()
    refused = {member for member, hint in hints.items() if not is_admitted(hint, split_union(members[member]))}
    assert refused == set()


@pytest.mark.parametrize(("name", "model"), PASSED.items(), ids=PASSED)
def test_declared_interface_has_the_fields_of_its_model(name: str, model: type[BaseModel]) -> None:
    """An interface has the fields of its request model, in camelCase instead of snake_case, except FILLED_IN."""
    members = {re.sub(r"[A-Z]", lambda letter: f"_{letter[0].lower()}", member) for member in read_interface(name)}
    assert members == model.model_fields.keys() - FILLED_IN


def test_wider_type_is_not_admitted() -> None:
    """`is_admitted`, with which this module compares types, rejects a type with more values than declared."""
    assert not is_admitted(str | None, {"string"})
    assert not is_admitted(list[views.InboxItem], {"InboxItem"})
    assert is_admitted(list[views.InboxItem] | None, {"InboxItem[]", "null"})
