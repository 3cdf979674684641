"""Automatic sending: events with the triggers that they start, and reminders."""
