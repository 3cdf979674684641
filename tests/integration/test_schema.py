"""Valid and invalid requests that schemathesis derives from the OpenAPI document, with every check enabled.

This is a short, seeded run; `ops/fuzz/schema` is the long one.
"""

import asyncio
import os
import sys
from pathlib import Path

import aiohttp
import pytest

from tests.support import schema_hooks
from tests.support.api import ADMIN, Api
from tests.support.gateway_parts import APP_ORIGIN

SECONDS = int(os.environ.get("SCHEMA_SECONDS", "25"))
SEED = os.environ.get("SCHEMA_SEED", "6")
SHORT = SECONDS <= 60
"""The coverage phase alone, with its 26,000 requests, takes minutes."""

CONFIG = """
headers = {{ Origin = "{home}" }}
request-timeout = 30
hooks = "{hooks}"

[auth.openapi.admin]
bearer = "{admin}"
[auth.openapi.secret]
bearer = "{secret}"
[auth.openapi.publishable]
bearer = "{publishable}"
[auth.openapi.device]
bearer = "{device_token}"

# Every check is on. A schema cannot say all that is wanted: a point on the curve, a segment that exists.
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "3xx", 400, 401, 403, 404, 409, 422, 429]

# A long poll is as long as one asks for.
[[operations]]
include-path = "/v1/devices/{{device_id}}/inbox"
parameters = {{ "query.wait" = 1, "path.device_id" = "{device_id}" }}

# Any text is a stream of lines, and each line has a verdict of its own. `batch` could be the id of an event too, and
# Allow names what is possible there.
[[operations]]
include-path = ["/v1/devices/import", "/v1/events/batch"]
checks = {{ negative_data_rejection = {{ enabled = false }}, allow_header_conformance = {{ enabled = false }} }}

# `preview` could be the id of a template.
[[operations]]
include-path = "/v1/templates/preview"
checks = {{ allow_header_conformance = {{ enabled = false }} }}

# What is under these would else be asked of things that do not exist.
[[operations]]
include-path-regex = "^/v1/devices/.device_id./|^/v1/applications/.application_id."
include-method = ["GET", "POST", "PUT", "PATCH"]
parameters = {{ "path.device_id" = "{device_id}", "path.application_id" = "{application_id}" }}
"""
ENDLESS = "/(live|stream)$"
"""WebSocket and Server-Sent Events: answers without an end."""


@pytest.mark.timeout(SECONDS + 120)
async def test_responses_match_the_document(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Valid and invalid requests get only responses that the document describes."""

    async def refuse_to_resolve(*_: object, **__: object) -> None:
        raise OSError("names are not resolved in tests")

    monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", refuse_to_resolve)
    device, application = await api.register(), api.parts.application
    config = tmp_path / "schemathesis.toml"
    parameters = {
        "device_id": device["id"],
        "device_token": device["device_token"],
        "application_id": application["id"],
    }
    config.write_text(
        CONFIG.format(
            home=APP_ORIGIN,
            hooks=schema_hooks.__file__,
            admin=ADMIN,
            secret=api.secret,
            publishable=api.publishable,
            **parameters,
        ),
        encoding="utf-8",
    )
    options = {
        "seed": SEED,
        "max-time": str(SECONDS),
        "max-examples": "3" if SHORT else "200",
        "phases": "examples,fuzzing,stateful" if SHORT else "examples,coverage,fuzzing,stateful",
        "exclude-path-regex": ENDLESS,
        "generation-database": "none",
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(config)),
        *("run", f"{api.origin}/openapi.json", "--no-shrink", "--continue-on-failure"),
        *(word for name, value in options.items() for word in (f"--{name}", value)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=tmp_path,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
