"""Figures, tables and scores from a run's records and files; they have no effect on a run."""
