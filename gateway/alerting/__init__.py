"""Readers of published alerts: CAP documents, NWS features and feeds, with their areas and event codes."""
