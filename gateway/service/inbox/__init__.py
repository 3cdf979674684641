"""What a browser fetches or receives directly: inbox, live channel, receipts."""
