"""The types and rules of the gateway's domain: alerts, audiences, notifications, deliveries. No I/O, no framework."""
