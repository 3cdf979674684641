"""Background loops beside the sending of jobs: alert feeds and webhooks."""
