"""What a notification says: templates and languages, made into the content that one device is shown."""
