"""Phantom cohorts: synthetic subjects made from a template anatomy."""
