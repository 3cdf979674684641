"""Queues of send jobs: the protocol, and its implementations in Postgres and NATS."""
