"""Polling loops of a worker: alert feeds and webhooks."""
