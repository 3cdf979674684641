"""The path of one job: planning, loading, admission, throttling, sending."""
