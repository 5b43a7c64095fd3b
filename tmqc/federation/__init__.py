"""Implements the `Centers` protocol across sites: scans stay in their hospital, the model and counts travel."""
