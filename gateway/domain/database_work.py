"""The kinds of database work of a server, each with its share of the connections and its time limit."""

from dataclasses import dataclass, field

# Time limit of a database statement of a server, if its kind of work has no limit.
STATEMENT_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class WorkKind:
    """A kind of database work.

    Attributes:
        name: the plural noun by which error messages name the work.
        share: the percentage of the slots that work of this kind may take.
        application_share: the percentage of the slots that one application may take for work of this kind.
        statement_timeout_s: the time limit of one statement; None keeps the limit of the connection.
        max_wait_s: how long work waits for a slot before it is refused.
        max_waiting: how many requests of one application may wait for a slot; further ones are refused at once.
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
# The alerts of an application are ingested one at a time, under a lock. So an application takes at most one slot: work
# in a second slot would only wait for the lock.
ALERT = WorkKind("alerts", application_share=0)
# A notification to many open pages wakes all of them at once.
LIVE = WorkKind("reads of open pages", application_share=50, max_wait_s=60.0, max_waiting=1_000_000)
# Charged per kind of credential, since the application is not known before the lookup.
LOOKUP = WorkKind("credential lookups", max_waiting=10_000)
