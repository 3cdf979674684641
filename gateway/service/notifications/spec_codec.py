"""What is to be sent later, again and again, as JSON: the drafts of reminders and triggers.

They are in the database and outlive releases: what is said here is read by every version after.
"""

from dataclasses import replace
from datetime import timedelta
from typing import Any

from gateway.domain.notification import Kind, Lane, Templating, Urgency
from gateway.domain.send_policy import SendPolicy
from gateway.service.notifications import templates
from gateway.service.notifications.submission import Draft


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
        lane=None if said["lane"] is None else Lane.from_label(said["lane"]),
        urgency=None if said["urgency"] is None else Urgency(said["urgency"]),
        ttl=None if said["ttl"] is None else timedelta(seconds=said["ttl"]),
        collapse_key=said["collapse_key"],
        steering=SendPolicy.from_json(said["steering"]),
        templating=None if said["templating"] is None else Templating(**said["templating"]),
    )


def show(said: dict[str, Any]) -> dict[str, Any]:
    """What every kind of draft says of itself, from its JSON; null is the kind's default."""
    ttl = said["ttl"]
    return {
        "content": said["content"],
        "audience": said["audience"],
        "category": said["steering"].get("category"),
        "delivery": {
            "lane": said["lane"],
            "urgency": said["urgency"],
            "ttl": None if ttl is None else int(ttl),
            "collapse_key": said["collapse_key"],
        },
    }


def changed(draft: Draft, said: dict[str, Any], steered: dict[str, Any]) -> Draft:
    """`said` by Draft's fields, `steered` by those of its steering. Other content is rendered as strictly as before."""
    now = replace(draft, **said, steering=replace(draft.steering, **steered))
    if "content" not in said:
        return now
    was = draft.templating or Templating()
    words = {"content": now.content, "variants": [variant.content for variant in now.steering.variants]}
    return replace(now, templating=templates.templating_of(words, was.strict, was.event))
