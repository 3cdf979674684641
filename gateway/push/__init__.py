"""What is said to a push service and what it answers: encryption, VAPID, endpoint policy, client, outcomes, payload."""
