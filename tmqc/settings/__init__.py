"""Schemas of the settings, one dataclass per config group; all checks; the fingerprint of a run's settings."""
