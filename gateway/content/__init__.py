"""The content of a notification: templates are rendered and a language is chosen for each device."""
