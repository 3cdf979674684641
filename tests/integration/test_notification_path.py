"""The path of a notification on the architecture page equals the calls that a notification causes."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import FrameType

from gateway.domain import ids
from gateway.sim import Vendor
from tests.support.api import Api

ROOT = Path(__file__).parents[2]
STEP = re.compile(r"^\| `(gateway[.\w]+)` \| `([.\w]+)` \|", re.MULTILINE)


def documented_steps() -> list[tuple[str, str]]:
    """Return (module, function) of every step on the architecture page, in order."""
    page = (ROOT / "ops" / "docs" / "architecture.md").read_text("utf-8")
    section = page.partition("## The path of a notification")[2].partition("\n## ")[0]
    return STEP.findall(section)


@contextmanager
def record_calls() -> Iterator[list[tuple[str, str]]]:
    """Record (module, function) of every call in this thread, each once, in the order of the first calls.

    The list is filled at the end of the context.
    """
    calls: dict[tuple[str, str], None] = {}

    def record(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            calls.setdefault((frame.f_globals.get("__name__", ""), frame.f_code.co_qualname))

    first_calls: list[tuple[str, str]] = []
    sys.setprofile(record)
    try:
        yield first_calls
    finally:
        sys.setprofile(None)
        first_calls.extend(calls)


def test_documented_functions_exist() -> None:
    """Every step names a function of its module, and each module appears once."""
    steps = documented_steps()
    modules = [module for module, _ in steps]
    assert len(modules) > 30
    assert len(modules) == len(set(modules))
    for module, function in steps:
        owner: object = import_module(module)
        for name in function.split("."):
            owner = getattr(owner, name)
        assert callable(owner)


async def test_notification_visits_modules_in_documented_order(api: Api) -> None:
    """A direct notification to one device calls the documented functions in the documented order."""
    await api.parts.register(api.parts.subscribe(Vendor.FCM, 1), user_id="u-1")
    body = {"content": {"title": "Hi"}, "audience": {"user_id": "u-1"}}
    with record_calls() as calls:
        sent = await api.call_ok("POST", "/v1/notifications", body)
        id_ = ids.parse(ids.NOTIFICATION, sent["id"])
        assert id_ is not None
        async with api.parts.run_worker():
            await api.parts.wait_until_done(id_)
    steps = documented_steps()
    assert set(steps) <= set(calls)
    assert [call for call in calls if call in set(steps)] == steps
