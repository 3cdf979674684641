"""The Postgres server: engine, schema, migrations, partitions, locks, LISTEN/NOTIFY and the clock."""
