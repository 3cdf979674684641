"""Read the event codes of the US National Weather Service (VTEC, NWS Instruction 10-1703).

`/O.CON.KMTR.GL.W.0025.260716T1600Z-260716T2200Z/`: product class, action, weather office (KMTR), phenomenon,
significance, event number, start and end. The fields from the weather office to the event number identify an event.
Often they are the only link between the messages about one event.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from gateway.domain.alert import MessageType

_CODE = re.compile(r"/[OTEX]\.([A-Z]{3})\.([A-Z]{4})\.([A-Z]{2})\.([A-Z])\.(\d{4})\.\d{6}T\d{4}Z-\d{6}T\d{4}Z/")

# Actions that end an event (cancelled, expired, upgraded to another one), and that begin one.
END_ACTIONS = frozenset({"CAN", "EXP", "UPG"})
BEGIN_ACTIONS = frozenset({"NEW"})


class VtecEvents(NamedTuple):
    """The events that a message's VTEC codes name.

    `event_keys` identify the events, such as `VTEC:KMTR.GL.W.0025`. `message_type` is the message type that follows
    from the actions of the codes, None without codes.
    """

    event_keys: tuple[str, ...]
    message_type: MessageType | None


def read(codes: Iterable[str]) -> VtecEvents:
    """Read VTEC codes from parameter values; other text is ignored."""
    codes_read = [match for code in codes for match in _CODE.findall(code)]
    event_keys = tuple(dict.fromkeys("VTEC:" + ".".join(event) for _, *event in codes_read))
    actions = {action for action, *_ in codes_read}
    if not actions:
        return VtecEvents((), None)
    if actions <= END_ACTIONS:
        return VtecEvents(event_keys, MessageType.CANCEL)
    return VtecEvents(event_keys, MessageType.ALERT if actions <= BEGIN_ACTIONS else MessageType.UPDATE)
