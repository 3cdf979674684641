"""Alerts: ingestion of CAP and NWS documents, their content, and the feeds that are polled for them."""
