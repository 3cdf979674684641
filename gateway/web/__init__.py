"""The HTTP API: one module for each resource, and one path for authentication, validation, errors and OpenAPI."""
