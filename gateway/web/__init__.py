"""The HTTP API: one module per resource, and around them auth, validation, errors and OpenAPI in one place."""
