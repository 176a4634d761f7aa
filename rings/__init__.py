"""Rings in shared memory."""
