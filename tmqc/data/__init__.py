"""From a cohort's CSVs and NIfTI files to validated rows and float32 arrays; corruption and phantoms."""
