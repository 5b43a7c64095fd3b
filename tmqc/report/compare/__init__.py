"""Comparison of runs: one table and one page."""
