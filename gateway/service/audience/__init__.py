"""Recipients: device registration, opt-out categories, saved segments."""
