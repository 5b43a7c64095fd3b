"""A run's directory, checkpoint and resume, trace, signals, progress."""
