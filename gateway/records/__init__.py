"""The database: the schema, and all SQL except the job queue's."""
