"""The HTTP API: one module for each resource. All routes share authentication, validation, errors and OpenAPI."""
