"""Reading of cohorts: CSVs and NIfTI files to validated rows and float32 arrays; cache, duplicates, ground truth."""
