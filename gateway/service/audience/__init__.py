"""Who receives: device registration, opt-out categories, saved segments."""
