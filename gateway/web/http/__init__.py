"""The HTTP layer below the resources: routing, parsing, problems, limits, headers."""
