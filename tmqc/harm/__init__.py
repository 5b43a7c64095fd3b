"""Corruptions and harmful-data scenarios."""
