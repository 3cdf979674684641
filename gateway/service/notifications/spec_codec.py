"""Encode and decode the drafts that reminders and triggers store as JSON.

Stored drafts outlive releases, so every later version must be able to decode them. The key of the send policy is
therefore still `steering`, the name of the policy in the first version.
"""

from dataclasses import replace
from datetime import timedelta
from typing import Any

from typing_extensions import TypedDict

from gateway.domain.json_object import JsonObject
from gateway.domain.notification import Kind, Lane, Templating, Urgency
from gateway.domain.schedule import QuietHours
from gateway.domain.send_policy import SendPolicy, Throttle
from gateway.service import views
from gateway.service.notifications import templates
from gateway.service.notifications.submission import Draft


class DraftView(TypedDict):
    """The fields that the views of reminders and triggers have in common."""

    content: JsonObject
    audience: Any
    category: str | None
    delivery: views.RecurringDelivery


def to_json(draft: Draft) -> JsonObject:
    """Encode a draft for storage."""
    return {
        "content": draft.content,
        "audience": draft.audience,
        "lane": None if draft.lane is None else draft.lane.label,
        "urgency": draft.urgency,
        "ttl": None if draft.ttl is None else draft.ttl.total_seconds(),
        "collapse_key": draft.collapse_key,
        "steering": draft.policy.to_json(),
        "templating": None
        if draft.templating is None
        else {"strict": draft.templating.strict, "event": draft.templating.event},
    }


def from_json(kind: Kind, stored: JsonObject) -> Draft:
    """Decode a stored draft, as a draft of notifications of this kind."""
    return Draft(
        kind,
        content=stored["content"],
        audience=stored["audience"],
        lane=None if stored["lane"] is None else Lane.from_label(stored["lane"]),
        urgency=None if stored["urgency"] is None else Urgency(stored["urgency"]),
        ttl=None if stored["ttl"] is None else timedelta(seconds=stored["ttl"]),
        collapse_key=stored["collapse_key"],
        policy=SendPolicy.from_json(stored["steering"]),
        templating=None if stored["templating"] is None else Templating(**stored["templating"]),
    )


def to_view(stored: JsonObject) -> DraftView:
    """Return the common fields of the views from a stored draft; null stands for the default of the kind."""
    ttl = stored["ttl"]
    return {
        "content": stored["content"],
        "audience": stored["audience"],
        "category": stored["steering"].get("category"),
        "delivery": {
            "lane": stored["lane"],
            "urgency": stored["urgency"],
            "ttl": None if ttl is None else int(ttl),
            "collapse_key": stored["collapse_key"],
        },
    }


class DeliveryChange(TypedDict, total=False):
    """Changed delivery options of a draft."""

    lane: Lane | None
    urgency: Urgency | None
    ttl: timedelta | None
    collapse_key: str | None


class DraftChange(DeliveryChange, total=False):
    """Changed fields of a draft."""

    content: JsonObject
    audience: Any


class PolicyChange(TypedDict, total=False):
    """Changed fields of a send policy."""

    category: str | None
    throttle: Throttle | None
    quiet_hours: QuietHours | None


def patch(draft: Draft, fields: DraftChange, policy_fields: PolicyChange) -> Draft:
    """Replace fields of a draft and of its send policy. New content keeps the option `strict` of the old content."""
    patched = replace(draft, **fields, policy=replace(draft.policy, **policy_fields))
    if "content" not in fields:
        return patched
    templating = draft.templating or Templating()
    contents = {"content": patched.content, "variants": [variant.content for variant in patched.policy.variants]}
    return replace(patched, templating=templates.templating_of(contents, templating.strict, templating.event))
