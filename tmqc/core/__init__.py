"""The science: pure functions of frozen records. Standard library and NumPy only; no files, clock, or logging."""
