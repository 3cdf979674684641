"""Valid and invalid requests that schemathesis derives from the OpenAPI document, with every check enabled.

This test is a short run with a fixed seed; `ops/fuzz/schema` is a long run.
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
# A short run leaves out the coverage phase, whose 26,000 requests take minutes.
IS_SHORT = SECONDS <= 60

CONFIG = """
headers = {{ Origin = "{origin}" }}
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

# Every check is enabled. A valid request may be refused, because a schema cannot express all rules: a public key is a
# point on the curve, and a segment exists.
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "3xx", 400, 401, 403, 404, 409, 422, 429]

# A long poll waits for as long as the request says.
[[operations]]
include-path = "/v1/devices/{{device_id}}/inbox"
parameters = {{ "query.wait" = 1, "path.device_id" = "{device_id}" }}

# Any text is a valid stream of lines, because each line has its own result. `batch` also matches the path of an event,
# so the header Allow has the methods of that path as well.
[[operations]]
include-path = ["/v1/devices/import", "/v1/events/batch"]
checks = {{ negative_data_rejection = {{ enabled = false }}, allow_header_conformance = {{ enabled = false }} }}

# `preview` also matches the path of a template.
[[operations]]
include-path = "/v1/templates/preview"
checks = {{ allow_header_conformance = {{ enabled = false }} }}

# Requests below these paths use an existing device and application.
[[operations]]
include-path-regex = "^/v1/devices/.device_id./|^/v1/applications/.application_id."
include-method = ["GET", "POST", "PUT", "PATCH"]
parameters = {{ "path.device_id" = "{device_id}", "path.application_id" = "{application_id}" }}
"""
# WebSocket and Server-Sent Events, whose responses do not end.
ENDLESS_PATHS = "/(live|stream)$"


@pytest.mark.timeout(SECONDS + 120)
async def test_responses_match_the_document(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Valid and invalid requests get only responses that the OpenAPI document describes."""

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
            origin=APP_ORIGIN,
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
        "max-examples": "3" if IS_SHORT else "200",
        "phases": "examples,fuzzing,stateful" if IS_SHORT else "examples,coverage,fuzzing,stateful",
        "exclude-path-regex": ENDLESS_PATHS,
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
