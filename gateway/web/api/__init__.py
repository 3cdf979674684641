"""One module for each API resource."""
