"""Take jobs from the queue and deliver them; keep the house in order."""
