"""A self-hosted Web Push notification gateway."""
