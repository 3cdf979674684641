"""What sends by itself: events, triggers and reminders."""
