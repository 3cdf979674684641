"""The event codes of the US National Weather Service (VTEC, NWS Instruction 10-1703).

`/O.CON.KMTR.GL.W.0025.260716T1600Z-260716T2200Z/`: product class, action, office, phenomenon, significance, event
number. Office, phenomenon, significance and number name the event; messages about it may refer to nothing else.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from gateway.domain.alert import MessageType

_CODE = re.compile(r"/[OTEX]\.([A-Z]{3})\.([A-Z]{4})\.([A-Z]{2})\.([A-Z])\.(\d{4})\.\d{6}T\d{4}Z-\d{6}T\d{4}Z/")

ENDS = frozenset({"CAN", "EXP", "UPG"})
BEGINS = frozenset({"NEW"})


class Events(NamedTuple):
    """`tracks`: the events' keys, such as `VTEC:KMTR.GL.W.0025`. `does`: what is said of them; None without codes."""

    tracks: tuple[str, ...]
    does: MessageType | None


def read(codes: Iterable[str]) -> Events:
    found = [match for code in codes for match in _CODE.findall(code)]
    tracks = tuple(dict.fromkeys("VTEC:" + ".".join(event) for _, *event in found))
    actions = {action for action, *_ in found}
    if not actions:
        return Events((), None)
    if actions <= ENDS:
        return Events(tracks, MessageType.CANCEL)
    return Events(tracks, MessageType.ALERT if actions <= BEGINS else MessageType.UPDATE)
