"""The science: pure functions of frozen records. Standard library, NumPy, SciPy; no files, clock, or logging."""
