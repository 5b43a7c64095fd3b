"""The phantom cohorts: subjects made from a template anatomy."""
