"""Reads a cohort: CSVs and NIfTI files to validated rows and float32 arrays; cache, copies, the manifest of harm."""
