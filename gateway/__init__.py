"""A self-hosted Web Push notification gateway."""

__version__ = "0.1.0"
