"""Who may do what: credentials, sessions, applications and their keys, the audit log, idempotency, secrets."""
