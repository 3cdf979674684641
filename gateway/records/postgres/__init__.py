"""Everything about the Postgres server itself: engine, schema, migrations, partitions, notifications, clocks."""
