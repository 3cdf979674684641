"""JavaScript expressions that call the SDK in the page of a test."""

import json
from typing import Any

from fake_gateway import KEY


def sdk(call: str, **options: Any) -> str:
    """Return an expression that calls the SDK with the sample page's worker scope; `options` are those of init()."""
    arguments = json.dumps({"key": KEY, "serviceWorker": "/sample/service-worker.js"} | options)
    return f"import('/sdk/webpush.js').then(({{init}}) => init({{gateway: location.origin, ...{arguments}}}).{call})"


def sdk_error(call: str, **options: Any) -> str:
    """Return an expression that calls the SDK; its value has the members of the error that is thrown, or is null."""
    members = "({name: e.name, code: e.code, status: e.status, message: e.message, errors: e.errors})"
    return f"{sdk(call, **options)}.then(() => null, e => {members})"
