"""Corruption of scans and scenarios of harmful data."""
