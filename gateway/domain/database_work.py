"""The kinds of database work of a server, each with its share of the connections and its time limit."""

from dataclasses import dataclass, field

# Time limit of a statement of a server, if its kind has no other.
STATEMENT_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class WorkKind:
    """A kind of database work.

    Attributes:
        name: plural noun for error messages.
        share: percentage of the places that work of this kind may occupy.
        application_share: percentage of the places that one application may occupy with work of this kind.
        statement_timeout_s: time limit of one statement; None leaves that of the connection.
        max_wait_s: how long work waits for a place before it is refused.
        max_waiting: maximum work of one application that waits; more is refused at once.
    """

    name: str
    share: int = 100
    application_share: int = 100
    statement_timeout_s: float | None = None
    max_wait_s: float = field(default=10.0, compare=False)
    max_waiting: int = 500


REQUEST = WorkKind("requests")
LIST = WorkKind("lists and statistics", share=60, application_share=40, statement_timeout_s=5.0)
PREVIEW = WorkKind("previews", share=40, application_share=20, statement_timeout_s=5.0)
EXPORT = WorkKind("imports and exports", share=60, application_share=40, statement_timeout_s=30.0)
ERASURE = WorkKind("erasures", share=20, application_share=20, statement_timeout_s=120.0)
URGENT = WorkKind("urgent notifications")
# Alerts of one application are ingested one after the other, in the order of its lock: more than one place would only
# hold connections that wait for that lock.
ALERT = WorkKind("alerts", application_share=0)
# A notification to many open pages wakes all of them at once.
LIVE = WorkKind("reads of open pages", application_share=50, max_wait_s=60.0, max_waiting=1_000_000)
# Charged per kind of credential, as its application is not known yet.
LOOKUP = WorkKind("credential lookups", max_waiting=10_000)
