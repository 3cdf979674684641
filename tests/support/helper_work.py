"""Functions that tests run in helper processes (`gateway.isolation`)."""

import time

from gateway.domain.errors import FieldError, ValidationError


def spin() -> None:
    """Use CPU time until the process is killed."""
    while True:
        pass


def wait() -> str:
    """Sleep for half a second, which uses no CPU time."""
    time.sleep(0.5)
    return "waited"


def allocate() -> int:
    """Allocate 2 GiB, more than a helper process may use."""
    return len(bytearray(2 << 30))


def refuse() -> None:
    """Raise an error that has fields, which must reach the caller."""
    raise ValidationError([FieldError("/title", "is wrong")])
