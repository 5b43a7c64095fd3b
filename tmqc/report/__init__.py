"""Figures, tables and scores from a run's records and files. Nothing here changes a run."""
