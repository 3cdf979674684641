"""The OpenAPI document is valid, complete, and what the server hands out."""

import json

from openapi_spec_validator import validate

from gateway.web.server import ROUTES
from tests.support.api import DOCUMENT, Api, example


def test_the_document_is_valid_openapi_3_1() -> None:
    assert DOCUMENT["openapi"].startswith("3.1.")
    validate(DOCUMENT)


def test_every_route_is_described_with_its_credentials_and_its_refusals() -> None:
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
    ids = [operation["operationId"] for path in DOCUMENT["paths"].values() for operation in path.values()]
    assert len(ids) == len(set(ids))


async def test_the_server_hands_it_out(api: Api) -> None:
    said = await api.call("GET", "/openapi.json", key=None)
    assert (said.status, said.body["paths"].keys()) == (200, DOCUMENT["paths"].keys())


async def test_every_address_in_a_problem_leads_to_the_documentation(api: Api) -> None:
    problem = (await api.call("GET", "/v1/nothing")).body
    page = await api.call("GET", problem["type"].partition("#")[0], key=None)
    assert page.status == 200
    assert problem["type"].partition("#")[2] == problem["code"]


def test_every_body_has_an_example_that_is_sound() -> None:
    for route in ROUTES:
        if route.body is not None:
            route.body.model_validate_json(json.dumps(example(route)))
