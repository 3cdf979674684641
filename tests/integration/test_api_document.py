"""The OpenAPI document is valid and complete, and the server returns it."""

import json

from openapi_spec_validator import validate

from gateway.web.server import ROUTES
from tests.support.api import DOCUMENT, Api, example_body


def test_document_is_valid_openapi_3_1() -> None:
    """The OpenAPI document is valid OpenAPI 3.1."""
    assert DOCUMENT["openapi"].startswith("3.1.")
    validate(DOCUMENT)


def test_every_route_describes_credentials_and_errors() -> None:
    """The document describes the security, body and error responses of every route."""
    for route in ROUTES:
        operation = DOCUMENT["paths"][route.path][route.method.lower()]
        assert operation["summary"], route.path
        assert bool(operation["security"]) == bool(route.scopes), route.path
        assert ("requestBody" in operation) == (route.body is not None or route.path.endswith(("/import", "/batch"))), (
            route.path
        )
        if route.scopes:
            assert {"401", "403"} <= operation["responses"].keys(), route.path


def test_operation_ids_are_unique() -> None:
    """No two operations share an operationId."""
    ids = [operation["operationId"] for path in DOCUMENT["paths"].values() for operation in path.values()]
    assert len(ids) == len(set(ids))


async def test_server_returns_the_document(api: Api) -> None:
    """The server returns the document at /openapi.json."""
    response = await api.call("GET", "/openapi.json", key=None)
    assert (response.status, response.body["paths"].keys()) == (200, DOCUMENT["paths"].keys())


async def test_problem_type_links_to_the_documentation(api: Api) -> None:
    """The `type` of a problem links to a documentation page and names its code."""
    problem = (await api.call("GET", "/v1/nothing")).body
    page = await api.call("GET", problem["type"].partition("#")[0], key=None)
    assert page.status == 200
    assert problem["type"].partition("#")[2] == problem["code"]


def test_every_body_has_a_valid_example() -> None:
    """Every request body has an example that its model accepts."""
    for route in ROUTES:
        if route.body is not None:
            route.body.model_validate_json(json.dumps(example_body(route)))
