"""A fixture that lets no connection be made."""

from typing import Any

import aiohappyeyeballs
import pytest


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The addresses of all connection attempts; every attempt is refused."""
    addresses: list[Any] = []

    async def refuse(addr_infos: Any, **_: Any) -> None:
        addresses.extend(info[4] for info in addr_infos)
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(aiohappyeyeballs, "start_connection", refuse)
    return addresses
