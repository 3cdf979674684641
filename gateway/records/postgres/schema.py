"""The tables in SQLAlchemy Core. A test checks that the migrations produce this schema.

`deliveries`, `attempts` and `receipts` are partitioned by the UTC day on which sending of their notification started,
so that retention drops a table instead of deleting rows. The primary key (day, notification, device) of `deliveries`
guarantees one result per device.

Some tables and columns have older names than the code: a migration cannot rename a table that running processes use.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    Float,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID
from sqlalchemy.types import UserDefinedType

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
        "ck": "%(table_name)s_%(constraint_name)s_check",
    }
)


class Point(UserDefinedType[object]):
    """The Postgres type `point`, (longitude, latitude), which GiST indexes without an extension."""

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        """Return the type's name in DDL."""
        return "point"


def _moment(name: str, *, nullable: bool = False, now: bool = False) -> Column[object]:
    """Return a column of type timestamptz; `now` sets the current time by default."""
    default = text("now()") if now else None
    return Column(name, DateTime(timezone=True), nullable=nullable, server_default=default)


def _application(*, primary_key: bool = False) -> Column[object]:
    return Column(
        "application_id",
        UUID,
        ForeignKey("applications.id", ondelete="CASCADE"),
        nullable=False,
        primary_key=primary_key,
    )


applications = Table(
    "applications",
    metadata,
    Column("id", UUID, primary_key=True),
    Column("name", Text, nullable=False),
    Column("subject", Text, nullable=False),  # VAPID `sub` (RFC 8292 section 2.1)
    Column("allowed_origins", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    Column("identity_secret", LargeBinary),  # encrypted; when set, `user_id` must be proven
    # Whether unproven users of devices are ignored. Set together with the identity secret; still false for secrets that
    # earlier versions of the gateway have set.
    Column("identity_enforced", Boolean, nullable=False, server_default=text("false")),
    # The last position assigned in the application's delivery log. The writer assigns positions under the lock of this
    # row, so they become visible in order: a reader that has read up to position N misses no entry before N.
    Column("log_position", BigInteger, nullable=False, server_default=text("0")),
    Column("alert_rules", JSONB, nullable=False, server_default=text("'[]'")),  # override the default alert routing
    Column("alert_audience", JSONB(none_as_null=True)),  # audience of alerts whose request names none
    _moment("forgot_at", nullable=True),  # time of the last erasure
    _moment("created_at", now=True),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", UUID, primary_key=True),
    _application(),
    Column("name", Text, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),  # register (publishable), send, read, manage
    Column("digest", LargeBinary, nullable=False, unique=True),  # SHA-256 of the key, which has 256 random bits
    Column("hint", Text, nullable=False),  # the prefix and the last four characters of the key
    _moment("created_at", now=True),
    Index(None, "application_id"),
)

# Console sessions. A session is deleted with its API key.
sessions = Table(
    "sessions",
    metadata,
    Column("digest", LargeBinary, primary_key=True),  # SHA-256 of the session token, which has 256 random bits
    Column("key_id", UUID, ForeignKey("api_keys.id", ondelete="CASCADE"), nullable=False),
    _moment("expires_at"),
    Index(None, "key_id"),
)

vapid_keys = Table(
    "vapid_keys",
    metadata,
    Column("id", UUID, primary_key=True),
    _application(),
    Column("public_key", LargeBinary, nullable=False),  # 65 bytes, uncompressed point
    Column("private_key", LargeBinary, nullable=False),  # encrypted with the master key
    _moment("created_at", now=True),
    UniqueConstraint("application_id", "public_key"),
)

devices = Table(
    "devices",
    metadata,
    Column("id", UUID, primary_key=True),
    _application(),
    Column("endpoint", Text, nullable=False),
    Column("endpoint_digest", LargeBinary, nullable=False),  # SHA-256; an endpoint may be too long for an index
    Column("host", Text, nullable=False),  # host of the push service
    Column("p256dh", LargeBinary, nullable=False),
    Column("auth", LargeBinary, nullable=False),
    Column("vapid_key_id", UUID, ForeignKey("vapid_keys.id"), nullable=False),
    Column("status", Text, nullable=False, server_default=text("'active'")),
    Column("user_id", Text),
    # Whether `user_id` was proven by a `user_hash`, or sent by the application's back end.
    Column("user_proven", Boolean, nullable=False, server_default=text("false")),
    Column("former_user_id", Text),  # the user who has signed out, and to whom the topics and attributes belong
    Column("platform", Text),
    Column("browser", Text),
    Column("locale", Text),
    Column("timezone", Text),
    Column("app_version", Text),
    Column("attributes", JSONB, nullable=False, server_default=text("'{}'")),
    Column("topics", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    Column("zones", ARRAY(Text), nullable=False, server_default=text("'{}'")),  # named areas: UGC, SAME, EMMA_ID, ...
    Column("muted", ARRAY(Text), nullable=False, server_default=text("'{}'")),  # categories the user opted out of
    Column("location", Point),
    Column("accuracy_m", Float),
    _moment("located_at", nullable=True),
    # Until this time, notifications are offered to the device's open page instead of the push service.
    _moment("live_until", nullable=True),
    # When the device's push service first accepted a message, and since when it has refused the VAPID key.
    _moment("accepted_at", nullable=True),
    _moment("refused_since", nullable=True),
    _moment("created_at", now=True),
    _moment("updated_at", now=True),
    _moment("last_seen_at", now=True),
    _moment("registered_at", nullable=True),  # the last registration; NULL if it preceded revision 0021
    UniqueConstraint("application_id", "endpoint_digest"),
    CheckConstraint("status IN ('active', 'gone', 'quarantined')", name="status"),
    Index(None, "application_id", "id"),
    Index("devices_user_id_idx", "application_id", "user_id", postgresql_where=text("user_id IS NOT NULL")),
    Index(
        "devices_former_user_id_idx",
        "application_id",
        "former_user_id",
        postgresql_where=text("former_user_id IS NOT NULL"),
    ),
    Index("devices_topics_idx", "topics", postgresql_using="gin"),
    Index(
        "devices_attributes_idx", "attributes", postgresql_using="gin", postgresql_ops={"attributes": "jsonb_path_ops"}
    ),
    Index("devices_zones_idx", "zones", postgresql_using="gin"),
    Index("devices_location_idx", "location", postgresql_using="gist"),
)

# Tombstones of erased devices, kept while a delivery that predates the erasure may be in flight.
erased_devices = Table(
    "forgotten",
    metadata,
    Column("device_id", UUID, primary_key=True),
    _moment("at", now=True),
    Index(None, "at"),
)

# Saved audiences. A segment may refer to other segments, without cycles.
segments = Table(
    "segments",
    metadata,
    Column("id", UUID, primary_key=True),
    _application(),
    Column("name", Text, nullable=False),
    Column("audience", JSONB, nullable=False),
    _moment("created_at", now=True),
    _moment("updated_at", now=True),
    UniqueConstraint("application_id", "name"),
)

# Opt-out categories. Each may have a frequency cap: at most `cap_most` sends to a user in `cap_window_s`.
categories = Table(
    "categories",
    metadata,
    Column("id", UUID, primary_key=True),
    _application(),
    Column("name", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("description", Text),
    Column("cap_most", Integer),
    Column("cap_window_s", Integer),
    Column("quiet_hours", JSONB),
    _moment("created_at", now=True),
    _moment("updated_at", now=True),
    UniqueConstraint("application_id", "name"),
)

# The ledger of frequency caps: one row per send of a notification to a person. `person` is a user id, or the id of a
# device without a user.
frequency_cap_sends = Table(
    "contacts",
    metadata,
    _application(primary_key=True),
    Column("category", Text, primary_key=True),
    Column("person", Text, primary_key=True),
    Column("notification_id", UUID, primary_key=True),
    _moment("at", now=True),
    Index(None, "at"),
)

# Saved content. A notification uses the version of the template that was the latest when it was accepted.
templates = Table(
    "templates",
    metadata,
    Column("id", UUID, primary_key=True),
    _application(),
    Column("name", Text, nullable=False),
    Column("version", Integer, nullable=False),  # the latest version
    _moment("created_at", now=True),
    _moment("updated_at", now=True),
    UniqueConstraint("application_id", "name"),
)

template_versions = Table(
    "template_versions",
    metadata,
    Column("template_id", UUID, ForeignKey("templates.id", ondelete="CASCADE"), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("content", JSONB, nullable=False),
    Column("strict", Boolean, nullable=False),
    _moment("created_at", now=True),
)

# Recurring notifications. The next occurrence is a scheduled notification. The transaction that plans an occurrence
# also creates the one after it.
reminders = Table(
    "reminders",
    metadata,
    Column("id", UUID, primary_key=True),
    _application(),
    Column("name", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("cause", Text),  # why the reminder ended
    Column("cron", Text, nullable=False),
    Column("timezone", Text, nullable=False),
    _moment("ends_at", nullable=True),
    Column("missed", Text, nullable=False),  # whether an occurrence that could not start in time is sent or skipped
    Column("draft", JSONB, nullable=False),  # content, audience and options of each occurrence
    _moment("created_at", now=True),
    _moment("updated_at", now=True),
    UniqueConstraint("application_id", "name"),
    CheckConstraint("status IN ('active', 'paused', 'ended')", name="status"),
    CheckConstraint("missed IN ('send', 'skip')", name="missed"),
)

notifications = Table(
    "notifications",
    metadata,
    Column("id", UUID, primary_key=True),
    _application(),
    Column("kind", Text, nullable=False),
    Column("name", Text),
    Column("status", Text, nullable=False),
    Column("day", Date),  # UTC day on which sending started: the partition of its deliveries
    Column("content", JSONB, nullable=False),
    Column("audience", JSONB, nullable=False),
    Column("details", JSONB, nullable=False, server_default=text("'{}'")),  # fields of one kind only, such as alerts
    Column("steering", JSONB, nullable=False, server_default=text("'{}'")),  # the send policy
    Column("reminder_id", UUID, ForeignKey("reminders.id", ondelete="SET NULL")),
    _moment("occurrence", nullable=True),  # the scheduled time, for an occurrence of a reminder
    Column("templating", JSONB(none_as_null=True)),  # options for rendering; NULL if the content is not a template
    Column("winner", SmallInteger),  # the variant for recipients outside the sample, once decided
    Column("auto_paused", Text),  # why the gateway paused the notification by itself, which happens at most once
    # Whether each delivery is meant for the user in `bound_deliveries` only.
    Column("person_bound", Boolean, nullable=False, server_default=text("false")),
    Column("trace", Text),  # W3C traceparent of the request, when tracing is on
    Column("lane", SmallInteger, nullable=False),
    Column("urgency", Text, nullable=False),
    Column("ttl_s", Integer, nullable=False),
    Column("collapse_key", Text),
    _moment("expires_at"),
    _moment("start_at"),
    _moment("created_at", now=True),
    _moment("finished_at", nullable=True),
    CheckConstraint("status IN ('scheduled', 'sending', 'done', 'cancelled', 'paused')", name="status"),
    Index(None, "application_id", "id"),
    Index("notifications_occurrence_key", "reminder_id", "occurrence", unique=True),
    Index(
        "notifications_addressed_idx",
        "application_id",
        text("coalesce(audience ->> 'user_id', audience ->> 'device_id')"),
        postgresql_where=text("audience ?| ARRAY['user_id', 'device_id']"),
    ),
)

# Ingested alert messages. Messages that update or cancel each other form a chain. `parts` stores for each info block
# its tag, the names of its event, the notifications that announced it, those that announced its end, and the area in
# which it is still in effect.
alerts = Table(
    "alerts",
    metadata,
    Column("id", UUID, primary_key=True),
    _application(),
    Column("chain", UUID, nullable=False),  # the id of the chain's first message
    Column("tag", Text, nullable=False),
    Column("identifier", Text, nullable=False),
    Column("message_type", Text, nullable=False),
    Column("sent", DateTime(timezone=True)),
    Column("refers_to", ARRAY(Text), nullable=False),  # identifiers of other messages
    Column("tracks", ARRAY(Text), nullable=False),  # VTEC event keys
    Column("parts", JSONB, nullable=False),
    _moment("expires_at"),
    _moment("created_at", now=True),
    CheckConstraint("message_type IN ('Alert', 'Update', 'Cancel')", name="message_type"),
    Index(None, "application_id", "identifier"),
    Index(None, "chain"),
    Index("alerts_refers_to_idx", "refers_to", postgresql_using="gin"),
    Index("alerts_tracks_idx", "tracks", postgresql_using="gin"),
)

# Alert feeds. Like a job, a feed is leased by moving `run_at`, the time of the next fetch, to the end of the lease.
feeds = Table(
    "feeds",
    metadata,
    Column("id", UUID, primary_key=True),
    _application(),
    Column("name", Text, nullable=False),
    Column("url", Text, nullable=False),
    Column("interval_s", Integer, nullable=False),
    Column("audience", JSONB(none_as_null=True)),
    Column("category", Text),
    Column("status", Text, nullable=False, server_default=text("'active'")),
    _moment("run_at", now=True),
    Column("claim", Integer, nullable=False, server_default=text("0")),  # fencing token; older claims cannot update
    Column("etag", Text),
    Column("last_modified", Text),
    Column("digest", LargeBinary),  # SHA-256 of the document that was read last
    Column("failures", Integer, nullable=False, server_default=text("0")),
    Column("last_error", Text),
    _moment("last_ok_at", nullable=True),
    Column("counts", JSONB, nullable=False, server_default=text("'{}'")),  # alerts by outcome
    Column("refusals", JSONB, nullable=False, server_default=text("'[]'")),  # the latest rejected alerts
    _moment("created_at", now=True),
    _moment("updated_at", now=True),
    UniqueConstraint("application_id", "name"),
    CheckConstraint("status IN ('active', 'paused')", name="status"),
    Index("feeds_due_idx", "run_at"),
)

# Read marks: entries of a feed whose documents were read. Marks of entries that the feed no longer lists are deleted.
feed_entries = Table(
    "feed_entries",
    metadata,
    Column("feed_id", UUID, ForeignKey("feeds.id", ondelete="CASCADE"), primary_key=True),
    Column("digest", LargeBinary, primary_key=True),  # SHA-256 of the entry's key
)

# Triggers: notifications that events start.
triggers = Table(
    "triggers",
    metadata,
    Column("id", UUID, primary_key=True),
    _application(),
    Column("name", Text, nullable=False),
    Column("event", Text, nullable=False),
    Column("status", Text, nullable=False, server_default=text("'active'")),
    Column("condition", JSONB(none_as_null=True)),
    # Content, audience and options of the notifications. The audience may refer to values of the event.
    Column("draft", JSONB, nullable=False),
    Column("delay_s", Integer, nullable=False),
    Column("dedupe_s", Integer),  # at most one run per user within this time
    Column("cap_most", Integer),  # maximum number of runs per user within `cap_window_s`
    Column("cap_window_s", Integer),
    # Names of events that cancel the trigger's unfinished notifications.
    Column("cancel_on", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    _moment("created_at", now=True),
    _moment("updated_at", now=True),
    UniqueConstraint("application_id", "name"),
    CheckConstraint("status IN ('active', 'paused')", name="status"),
    Index(None, "application_id", "event"),
)

events = Table(
    "events",
    metadata,
    Column("id", UUID, primary_key=True),
    _application(),
    Column("key", Text),  # the client's id of the event; requests with the same id are one event
    Column("name", Text, nullable=False),
    Column("user_id", Text),
    Column("data", JSONB, nullable=False),
    _moment("occurred_at"),
    _moment("created_at", now=True),
    Index(None, "application_id", "id"),
    Index("events_key_key", "application_id", "key", unique=True, postgresql_where=text("key IS NOT NULL")),
    Index(None, "created_at"),
)

# Runs of triggers: the result of each trigger for an event.
trigger_runs = Table(
    "trigger_runs",
    metadata,
    Column("event_id", UUID, ForeignKey("events.id", ondelete="CASCADE"), primary_key=True),
    Column("trigger_id", UUID, ForeignKey("triggers.id", ondelete="CASCADE"), primary_key=True),
    Column("user_id", Text),
    Column("outcome", Text, nullable=False),
    Column("cause", Text),
    Column("notification_id", UUID),
    _moment("at", now=True),
    Index(None, "trigger_id", "user_id", "at"),
    Index(None, "trigger_id", "event_id"),
)

# Counters of notifications. They change with every batch, so they are not columns of `notifications`, whose rows are
# wide and often read.
progress = Table(
    "progress",
    metadata,
    Column("notification_id", UUID, ForeignKey("notifications.id", ondelete="CASCADE"), primary_key=True),
    *(
        Column(name, Integer, nullable=False, server_default=text("0"))
        for name in ("targets", "accepted", "gone", "rejected", "expired", "cancelled", "skipped", "retries")
    ),
    *(
        Column(name, Integer, nullable=False, server_default=text("0"))
        for name in ("displayed", "clicked", "dismissed")
    ),
    Column("per_second", Float),  # the throttle, once the number of recipients is known
    _moment("free_at", nullable=True),  # when the throttle allows the next message
    Column("rate", Float, nullable=False, server_default=text("0")),  # deliveries per second at `rated_at`
    _moment("rated_at", nullable=True),
    _moment("began_at", nullable=True),  # when the first delivery ended
    postgresql_with={"fillfactor": "50"},
)

# Counters of each variant, by its index in the notification.
variants = Table(
    "variants",
    metadata,
    Column("notification_id", UUID, ForeignKey("notifications.id", ondelete="CASCADE"), primary_key=True),
    Column("number", SmallInteger, primary_key=True),
    *(
        Column(name, Integer, nullable=False, server_default=text("0"))
        for name in ("accepted", "gone", "rejected", "expired", "displayed", "clicked", "dismissed")
    ),
    postgresql_with={"fillfactor": "50"},
)

# Jobs to plan or send. gateway.records.jobs describes the columns.
jobs = Table(
    "jobs",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("task", Text, nullable=False, server_default=text("'send'")),
    Column("application_id", UUID, nullable=False),
    Column("notification_id", UUID, ForeignKey("notifications.id", ondelete="CASCADE"), nullable=False),
    Column("lane", SmallInteger, nullable=False),
    _moment("run_at", now=True),
    Column("attempt", Integer, nullable=False, server_default=text("0")),
    Column("tries", SmallInteger, nullable=False, server_default=text("0")),
    Column("parked", Boolean, nullable=False, server_default=text("false")),  # suspended: its notification is paused
    _moment("slot", nullable=True),  # the time assigned by the throttle
    Column("day", Date),  # the day of the notification; NULL for plan jobs
    Column("device_ids", ARRAY(UUID), nullable=False, server_default=text("'{}'")),
    CheckConstraint("task IN ('plan', 'send')", name="task"),
    Index("jobs_due_idx", "lane", "run_at", "id"),
    Index("jobs_turn_idx", "lane", "application_id", "run_at", "id"),
    Index(None, "notification_id"),
)

# The users for whom the deliveries of a notification were planned, if the notification is bound to persons. They are
# deleted when it has ended. There are no foreign keys, since their checks would cost as much as the rows.
bound_deliveries = Table(
    "bound_deliveries",
    metadata,
    Column("notification_id", UUID, primary_key=True),
    Column("device_id", UUID, primary_key=True),
    Column("user_id", Text, nullable=False),
)

# The most frequent values in a delivery log. The partial indexes by outcome and host exclude them.
COMMON_OUTCOME, COMMON_HOST = "accepted", "fcm.googleapis.com"

deliveries = Table(
    "deliveries",
    metadata,
    Column("day", Date, primary_key=True),
    Column("notification_id", UUID, primary_key=True),
    Column("device_id", UUID, primary_key=True),
    Column("application_id", UUID, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("user_id", Text),
    Column("host", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("status", SmallInteger),
    Column("cause", Text, nullable=False),
    Column("attempts", SmallInteger, nullable=False),
    _moment("attempted_at", nullable=True),
    Column("duration_ms", Integer, nullable=False),
    _moment("settled_at"),
    Column("message", Text),  # URL of the message at the push service (Location)
    Column("granted_ttl", Integer),  # TTL in the response of the push service
    Column("variant", SmallInteger),
    Index(None, "application_id", "position"),
    Index(None, "application_id", "settled_at"),
    Index(
        "deliveries_outcome_idx",
        "application_id",
        "outcome",
        "settled_at",
        postgresql_where=text(f"outcome <> '{COMMON_OUTCOME}'"),
    ),
    Index(
        "deliveries_outcome_host_idx",
        "application_id",
        "outcome",
        "host",
        "settled_at",
        postgresql_where=text(f"outcome <> '{COMMON_OUTCOME}'"),
    ),
    Index(
        "deliveries_host_idx",
        "application_id",
        "host",
        "settled_at",
        postgresql_where=text(f"host <> '{COMMON_HOST}'"),
    ),
    Index(None, "device_id"),
    Index("deliveries_user_id_idx", "application_id", "user_id", postgresql_where=text("user_id IS NOT NULL")),
    postgresql_partition_by="RANGE (day)",
)

attempts = Table(
    "attempts",
    metadata,
    Column("day", Date, nullable=False),
    Column("notification_id", UUID, nullable=False),
    Column("device_id", UUID, nullable=False),
    Column("number", SmallInteger, nullable=False),
    _moment("at"),
    Column("duration_ms", Integer, nullable=False),
    Column("status", SmallInteger),
    Column("cause", Text, nullable=False),
    _moment("retry_at"),
    Index(None, "notification_id", "device_id"),
    postgresql_partition_by="RANGE (day)",
)

# Receipts of browsers. They have their own table because a receipt may arrive before the result of the delivery is
# written, and because the log is append-only. The primary key makes a repeated receipt count once.
receipts = Table(
    "receipts",
    metadata,
    Column("day", Date, primary_key=True),
    Column("notification_id", UUID, primary_key=True),
    Column("device_id", UUID, primary_key=True),
    Column("event", Text, primary_key=True),  # displayed, clicked, dismissed
    Column("action", Text),
    _moment("at", now=True),
    postgresql_partition_by="RANGE (day)",
)

# Read marks of the inbox, which is a view of the delivery log. `day` is the partition of the entry.
inbox_reads = Table(
    "inbox_reads",
    metadata,
    Column("device_id", UUID, ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True),
    Column("notification_id", UUID, primary_key=True),
    Column("day", Date, nullable=False),
    _moment("read_at", now=True),
    Index(None, "day"),
)

# Deliveries offered to open pages instead of the push service, with the time of the acknowledgement.
live_handoffs = Table(
    "live_waiting",
    metadata,
    Column("notification_id", UUID, primary_key=True),
    Column("device_id", UUID, ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True),
    Column("application_id", UUID, nullable=False),
    Column("variant", SmallInteger),
    Column("user_id", Text),  # the only user to whom it may be offered; NULL if it is not bound to a person
    _moment("created_at", now=True),
    _moment("acked_at", nullable=True),
    Index("live_waiting_device_id_idx", "device_id", postgresql_where=text("acked_at IS NULL")),
    Index(None, "created_at"),
)

# The tables that are partitioned by day.
PARTITIONED = (deliveries, attempts, receipts)

# Webhooks, with their positions in the application's delivery log and in the outbox.
webhooks = Table(
    "webhooks",
    metadata,
    Column("id", UUID, primary_key=True),
    _application(),
    Column("name", Text, nullable=False),
    Column("url", Text, nullable=False),
    Column("events", ARRAY(Text), nullable=False),  # patterns: `device.gone`, `delivery.*`, `*`
    Column("secrets", LargeBinary, nullable=False),  # encrypted JSON, newest first
    Column("status", Text, nullable=False, server_default=text("'active'")),
    Column("cause", Text),  # why the gateway disabled the webhook
    Column("log_position", BigInteger, nullable=False),
    Column("outbox_txid", BigInteger, nullable=False),
    Column("outbox_id", BigInteger, nullable=False),
    Column("pending", JSONB(none_as_null=True)),  # the batch that is being sent: its message id and its end
    _moment("run_at", now=True),  # when the webhook may be claimed next
    Column("claim", BigInteger, nullable=False, server_default=text("0")),  # fencing token; older claims cannot update
    Column("failures", Integer, nullable=False, server_default=text("0")),
    _moment("failing_since", nullable=True),
    _moment("last_ok_at", nullable=True),
    Column("last_error", Text),
    _moment("created_at", now=True),
    _moment("updated_at", now=True),
    UniqueConstraint("application_id", "name"),
    CheckConstraint("status IN ('active', 'disabled')", name="status"),
)

# The outbox: webhook events that are not in the delivery log. Only events of subscribed types are written. Old events
# are pruned. The order is (txid, id). It is final for events whose txid is smaller than that of every running
# transaction.
outbox_events = Table(
    "happenings",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("txid", BigInteger, nullable=False),
    Column("application_id", UUID, nullable=False),
    Column("type", Text, nullable=False),
    Column("data", JSONB, nullable=False),
    _moment("at", now=True),
    Index(None, "application_id", "txid", "id"),
    Index(None, "at"),
)

# The audit log. No foreign key: entries outlive their application.
audit = Table(
    "audit",
    metadata,
    Column("id", UUID, primary_key=True),
    Column("application_id", UUID),
    # Who acted: the id of an API key, `admin`, or `command line`.
    Column("who", Text, key="actor", nullable=False),
    Column("act", Text, key="action", nullable=False),
    Column("target", Text),
    Column("details", JSONB, nullable=False),
    _moment("at", now=True),
    Index(None, "application_id", "id"),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("owner", Text, primary_key=True),  # the credential: `application/key`, the id of a device, or `admin`
    Column("key", Text, primary_key=True),
    Column("request_digest", LargeBinary, nullable=False),
    Column("status", SmallInteger),
    Column("answer", LargeBinary),  # the body of the response, encrypted because it may contain an API key
    _moment("created_at", now=True),
    Index(None, "created_at"),
)
