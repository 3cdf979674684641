"""Access control: credentials, sessions, applications and their keys, the audit log, idempotency, secrets."""
