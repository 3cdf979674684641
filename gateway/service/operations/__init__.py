"""Operator tasks: master key rotation and erasure of personal data."""
