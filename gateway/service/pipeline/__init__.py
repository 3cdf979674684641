"""The steps of one job: planning, loading, admission, throttling, sending."""
