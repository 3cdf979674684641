"""Write the types of the Python client from the OpenAPI document, so that they cannot differ from it.

What the gateway answers becomes a dataclass, what it is told a TypedDict, of which a method takes the fields as its
keyword arguments. A test compares what would be written with what is there.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gateway.web.schemas import openapi
from gateway.web.server import ROUTES

ROOT = Path(__file__).parents[1]
HERE = ROOT / "gateway" / "client"
PAGING = {"limit", "cursor"}

ANSWERS = '''"""What the gateway answers, as types. Written by `ops/client` from the OpenAPI document."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
'''
BODIES = '''"""What the gateway is told, as types: the keyword arguments of the client's methods.

Written by `ops/client` from the OpenAPI document.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, NotRequired, TypedDict

# ruff: noqa: E501

Audience = Mapping[str, Any]
"""Who: `{"topic": "weather"}`, `{"user_id": "u-1"}`, `{"all": [...]}`; see Audience in the OpenAPI document."""
'''


class Types:
    """The schemas that are reached, each once, those before others that name them."""

    def __init__(self, schemas: dict[str, Any], *, told: bool) -> None:
        self.schemas = schemas
        self.told = told
        self.written: dict[str, str] = {}

    def of(self, schema: dict[str, Any]) -> str:
        """The type of a schema, as Python has it."""
        if reference := schema.get("$ref"):
            return self.named(reference.rpartition("/")[2])
        for several in ("anyOf", "oneOf", "allOf"):
            if several in schema:
                arms = list(dict.fromkeys(self.of(arm) for arm in schema[several]))
                return " | ".join(sorted(arms, key=lambda arm: arm == "None"))
        if "enum" in schema:
            return f"Literal[{', '.join(map(repr, schema['enum']))}]"
        match schema.get("type"):
            case "string":
                moment = "datetime | str" if self.told else "datetime"
                return moment if schema.get("format") == "date-time" else "str"
            case "integer":
                return "int"
            case "number":
                return "float"
            case "boolean":
                return "bool"
            case "null":
                return "None"
            case "array":
                return f"{'Sequence' if self.told else 'list'}[{self.of(schema.get('items', {}))}]"
            case "object" if "properties" not in schema:
                patterns: list[Any] = list(schema.get("patternProperties", {}).values())
                [values, *_] = [*patterns, schema.get("additionalProperties")]
                inner = self.of(values) if isinstance(values, dict) else "Any"
                return f"{'Mapping' if self.told else 'dict'}[str, {inner}]"
        return "Any"

    def named(self, name: str) -> str:
        shown = re.sub("-(In|Out)put$", "", name)
        schema = self.schemas[name]
        if shown == "Audience":
            return shown if self.told else "Any"
        if shown not in self.written:
            self.written[shown] = ""
            text = self._fields(shown, schema) if "properties" in schema else f"{shown} = {self.of(schema)}\n"
            del self.written[shown]  # what it names came before it
            self.written[shown] = text
        return shown

    def listed(self, name: str, fields: Iterator[tuple[str, dict[str, Any], bool]], said: str = "") -> None:
        lines = [f"class {name}({'TypedDict' if self.told else ''}):".replace("()", "")]
        lines += _docstring(said)
        for field, schema, required in fields:
            type_ = self.of(schema)
            if self.told:
                type_ = type_ if required else f"NotRequired[{type_}]"
            elif not required:
                type_ = f"{type_.removesuffix(' | None')} | None = None"
            lines += [f"    {field}: {type_}"]
            if "$ref" not in schema:
                lines += _docstring(schema.get("description", ""))
        decorator = "" if self.told else "@dataclass(frozen=True, kw_only=True, slots=True)\n"
        self.written[name] = decorator + "\n".join(lines) + "\n"

    def _fields(self, name: str, schema: dict[str, Any]) -> str:
        required = schema.get("required", ())
        fields = ((field, about, field in required) for field, about in schema["properties"].items())
        self.listed(name, fields, schema.get("description", ""))
        return self.written[name]


def _docstring(said: str) -> list[str]:
    if not said:
        return []
    text = said.replace("\\", "\\\\").replace("\n", "\n    ").replace("\n    \n", "\n\n")
    return [f'    """{text}"""' if "\n" not in said else f'    """{text}\n    """']


def written() -> dict[Path, str]:
    """What the files should hold."""
    document = openapi.document(ROUTES)
    schemas = document["components"]["schemas"]
    answers, bodies = Types(schemas, told=False), Types(schemas, told=True)
    for path, operations in document["paths"].items():
        for operation in operations.values():
            for status, answer in operation["responses"].items():
                content = answer.get("content", {}).get("application/json")
                if content and status < "300":
                    _answered(answers, content["schema"])
            if body := operation.get("requestBody", {}).get("content", {}).get("application/json"):
                bodies.of(body["schema"])
            sought = [one for one in operation.get("parameters", ()) if one["in"] == "query"]
            if found := [one for one in sought if one["name"] not in PAGING]:
                bodies.listed(_search(path), ((one["name"], one["schema"], False) for one in found))
    return {
        HERE / "responses.py": _formatted(ANSWERS, answers),
        HERE / "requests.py": _formatted(BODIES, bodies),
    }


def _answered(answers: Types, schema: dict[str, Any]) -> None:
    reference = schema.get("$ref", "").rpartition("/")[2]
    if reference.startswith("Page_"):  # a page is the client's own type
        schema = answers.schemas[reference]["properties"]["items"]
    answers.of(schema)


def _search(path: str) -> str:
    """`/v1/devices/{device_id}/inbox` is searched by InboxSearch."""
    last = [word for word in path.split("/") if word and "{" not in word][-1]
    return f"{last[0].upper()}{last[1:].removesuffix('s')}Search".replace("Deliverie", "Delivery")


def _formatted(head: str, types: Types) -> str:
    text = head + "\n\n" + "\n\n".join(types.written.values())
    command = [sys.executable, "-m", "ruff", "format", "--stdin-filename", "gateway/client/written.py", "-"]
    return subprocess.run(command, cwd=ROOT, input=text, capture_output=True, text=True, check=True).stdout


def main() -> None:
    behind = [path for path, text in written().items() if not path.exists() or path.read_text() != text]
    if "--check" not in sys.argv:
        for path, text in written().items():
            path.write_text(text)
    elif behind:
        sys.exit(f"{', '.join(path.name for path in behind)} are not the document's: run ops/client")


if __name__ == "__main__":
    main()
