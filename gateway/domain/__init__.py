"""The words of the gateway as plain types and rules. No I/O, no framework."""
