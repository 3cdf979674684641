"""What is to be sent later, again and again, as JSON: the drafts of reminders and triggers.

They are in the database and outlive releases: what is said here is read by every version after.
"""

from datetime import timedelta
from typing import Any

from gateway.domain.notification import Kind, Lane, Templating, Urgency
from gateway.domain.steering import Steering
from gateway.service.submission import Draft


def to_json(draft: Draft) -> dict[str, Any]:
    return {
        "content": draft.content,
        "audience": draft.audience,
        "lane": None if draft.lane is None else draft.lane.label,
        "urgency": draft.urgency,
        "ttl": None if draft.ttl is None else draft.ttl.total_seconds(),
        "collapse_key": draft.collapse_key,
        "steering": draft.steering.to_json(),
        "templating": None
        if draft.templating is None
        else {"strict": draft.templating.strict, "event": draft.templating.event},
    }


def from_json(kind: Kind, said: dict[str, Any]) -> Draft:
    return Draft(
        kind,
        content=said["content"],
        audience=said["audience"],
        lane=None if said["lane"] is None else Lane.labelled(said["lane"]),
        urgency=None if said["urgency"] is None else Urgency(said["urgency"]),
        ttl=None if said["ttl"] is None else timedelta(seconds=said["ttl"]),
        collapse_key=said["collapse_key"],
        steering=Steering.from_json(said["steering"]),
        templating=None if said["templating"] is None else Templating(**said["templating"]),
    )
