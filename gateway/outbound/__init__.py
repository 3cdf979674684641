"""Calls to addresses that applications name, webhook receivers and feeds: which are allowed, and the HTTP client."""
