"""Communication with push services: encryption, VAPID, endpoint policy, HTTP client, responses, payload."""
