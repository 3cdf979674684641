"""Direct exchange with browsers: inbox, live channel, receipts."""
