"""Webhook subscriptions, their batches and signatures."""
