"""The HTTP layer under the resources: routing, parsing, problems, limits, headers."""
