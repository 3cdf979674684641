"""Functions that tests call in helper processes."""

import time

from gateway.domain.errors import FieldError, ValidationError


def spin() -> None:
    """Use CPU time without an end."""
    while True:
        pass


def wait() -> str:
    """Use no CPU time."""
    time.sleep(0.5)
    return "waited"


def allocate() -> int:
    """Use too much memory."""
    return len(bytearray(2 << 30))


def refuse() -> None:
    """Raise an error with fields."""
    raise ValidationError([FieldError("/title", "is wrong")])
