"""The delivery log: a writer, a reader, statistics, and the inbox, which is a view of the log."""
