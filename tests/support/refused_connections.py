"""A fixture that refuses every outgoing connection."""

from typing import Any

import aiohappyeyeballs
import pytest


@pytest.fixture
def attempted_addresses(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Refuse every connection attempt, and return the list to which the addresses of attempts are added."""
    addresses: list[Any] = []

    async def refuse(addr_infos: Any, **_: Any) -> None:
        addresses.extend(info[4] for info in addr_infos)
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(aiohappyeyeballs, "start_connection", refuse)
    return addresses
