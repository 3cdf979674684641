"""Statistics, and following the delivery log live."""
