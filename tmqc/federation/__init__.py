"""The center Protocol across real sites: scans stay in their hospital, the model and counts travel."""
