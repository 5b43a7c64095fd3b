"""The method: pure functions of frozen records. Uses the standard library, NumPy and SciPy; no files, clock or logs."""
