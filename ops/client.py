"""Write the types of the Python client from the OpenAPI document, so that they cannot differ from it.

A response becomes a dataclass. A request becomes a TypedDict, whose fields are the keyword arguments of the client's
method. A test compares the files with the output of this script.
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
CLIENT_DIRECTORY = ROOT / "gateway" / "client"
PAGING = {"limit", "cursor"}

RESPONSES_HEAD = '''"""The gateway's responses as dataclasses. Written by `ops/client` from the OpenAPI document."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
'''
REQUESTS_HEAD = '''"""The gateway's requests as typed dicts: the keyword arguments of the client's methods.

Written by `ops/client` from the OpenAPI document.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, NotRequired, TypedDict

# ruff: noqa: E501

# An audience: `{"topic": "weather"}`, `{"user_id": "u-1"}`, `{"all": [...]}`; see Audience in the OpenAPI document.
Audience = Mapping[str, Any]
'''


class TypeWriter:
    """Writes the Python class of each schema in use, after the classes that it refers to."""

    def __init__(self, schemas: dict[str, Any], *, is_request: bool) -> None:
        self.schemas = schemas
        self.is_request = is_request
        self.written: dict[str, str] = {}

    def type_of(self, schema: dict[str, Any]) -> str:
        """Return the Python type of a schema."""
        if reference := schema.get("$ref"):
            return self.class_name(reference.rpartition("/")[2])
        for keyword in ("anyOf", "oneOf", "allOf"):
            if keyword in schema:
                types = list(dict.fromkeys(self.type_of(alternative) for alternative in schema[keyword]))
                return " | ".join(sorted(types, key=lambda type_: type_ == "None"))
        if "enum" in schema:
            return f"Literal[{', '.join(map(repr, schema['enum']))}]"
        match schema.get("type"):
            case "string":
                time_type = "datetime | str" if self.is_request else "datetime"
                return time_type if schema.get("format") == "date-time" else "str"
            case "integer":
                return "int"
            case "number":
                return "float"
            case "boolean":
                return "bool"
            case "null":
                return "None"
            case "array":
                return f"{'Sequence' if self.is_request else 'list'}[{self.type_of(schema.get('items', {}))}]"
            case "object" if "properties" not in schema:
                patterns: list[Any] = list(schema.get("patternProperties", {}).values())
                [values, *_] = [*patterns, schema.get("additionalProperties")]
                inner = self.type_of(values) if isinstance(values, dict) else "Any"
                return f"{'Mapping' if self.is_request else 'dict'}[str, {inner}]"
        return "Any"

    def class_name(self, name: str) -> str:
        """Return the name of a schema's class, and write the class on first use."""
        class_name = re.sub("-(In|Out)put$", "", name)
        schema = self.schemas[name]
        if class_name == "Audience":
            return class_name if self.is_request else "Any"
        if class_name not in self.written:
            self.written[class_name] = ""
            text = (
                self._fields(class_name, schema)
                if "properties" in schema
                else f"{class_name} = {self.type_of(schema)}\n"
            )
            del self.written[class_name]  # move it behind the classes that it refers to
            self.written[class_name] = text
        return class_name

    def add_class(self, name: str, fields: Iterator[tuple[str, dict[str, Any], bool]], description: str = "") -> None:
        """Write a class with these (field, schema, required) triples."""
        lines = [f"class {name}({'TypedDict' if self.is_request else ''}):".replace("()", "")]
        lines += _docstring(description)
        for field, schema, required in fields:
            type_ = self.type_of(schema)
            if self.is_request:
                type_ = type_ if required else f"NotRequired[{type_}]"
            elif not required:
                type_ = f"{type_.removesuffix(' | None')} | None = None"
            lines += [f"    {field}: {type_}"]
            if "$ref" not in schema:
                lines += _docstring(schema.get("description", ""))
        decorator = "" if self.is_request else "@dataclass(frozen=True, kw_only=True, slots=True)\n"
        self.written[name] = decorator + "\n".join(lines) + "\n"

    def _fields(self, name: str, schema: dict[str, Any]) -> str:
        required = schema.get("required", ())
        fields = ((field, subschema, field in required) for field, subschema in schema["properties"].items())
        self.add_class(name, fields, schema.get("description", ""))
        return self.written[name]


def _docstring(description: str) -> list[str]:
    if not description:
        return []
    text = description.replace("\\", "\\\\").replace("\n", "\n    ").replace("\n    \n", "\n\n")
    return [f'    """{text}"""' if "\n" not in description else f'    """{text}\n    """']


def render() -> dict[Path, str]:
    """Return the contents that the generated files must have."""
    document = openapi.document(ROUTES)
    schemas = document["components"]["schemas"]
    responses, requests = TypeWriter(schemas, is_request=False), TypeWriter(schemas, is_request=True)
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for status, response in operation["responses"].items():
                content = response.get("content", {}).get("application/json")
                if content and status < "300":
                    _add_response(responses, content["schema"])
            if body := operation.get("requestBody", {}).get("content", {}).get("application/json"):
                requests.type_of(body["schema"])
            query = [parameter for parameter in operation.get("parameters", ()) if parameter["in"] == "query"]
            if filters := [parameter for parameter in query if parameter["name"] not in PAGING]:
                requests.add_class(
                    _query_name(path),
                    ((parameter["name"], parameter["schema"], False) for parameter in filters),
                    f"Query parameters of {method.upper()} {path}.",
                )
    return {
        CLIENT_DIRECTORY / "responses.py": _format(RESPONSES_HEAD, responses),
        CLIENT_DIRECTORY / "requests.py": _format(REQUESTS_HEAD, requests),
    }


def _add_response(responses: TypeWriter, schema: dict[str, Any]) -> None:
    reference = schema.get("$ref", "").rpartition("/")[2]
    if reference.startswith("Page_"):  # the client defines its own page type
        schema = responses.schemas[reference]["properties"]["items"]
    responses.type_of(schema)


def _query_name(path: str) -> str:
    """Return the name of a path's query type: InboxSearch for `/v1/devices/{device_id}/inbox`."""
    last = [word for word in path.split("/") if word and "{" not in word][-1]
    return f"{last[0].upper()}{last[1:].removesuffix('s')}Search".replace("Deliverie", "Delivery")


def _format(head: str, types: TypeWriter) -> str:
    text = head + "\n\n" + "\n\n".join(types.written.values())
    command = [sys.executable, "-m", "ruff", "format", "--stdin-filename", "gateway/client/generated.py", "-"]
    return subprocess.run(command, cwd=ROOT, input=text, capture_output=True, text=True, check=True).stdout


def main() -> None:
    """Write the generated files, or with `--check` exit with an error when they differ."""
    outdated = [path for path, text in render().items() if not path.exists() or path.read_text() != text]
    if "--check" not in sys.argv:
        for path, text in render().items():
            path.write_text(text)
    elif outdated:
        sys.exit(f"{', '.join(path.name for path in outdated)} differ from the OpenAPI document; run ops/client")


if __name__ == "__main__":
    main()
