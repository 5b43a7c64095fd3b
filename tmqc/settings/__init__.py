"""Schemas of the settings, one dataclass per config group; their checks; the fingerprint of a run's settings."""
