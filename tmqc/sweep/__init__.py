"""Sweeps: their jobs and outcomes, the output on the terminal, and the parent run in the tracking store.

The jobs of a sweep may run in other processes and on other machines; they report by files in the sweep's directory.
"""
