"""Send notifications: claim jobs, send their messages, settle the results; run pollers and maintenance."""
