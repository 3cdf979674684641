"""Statistics, the state of circuit breakers, and a live stream of the delivery log."""
