"""Sweeps: the outcome of every job, what the terminal shows of it, and the run that holds them in the tracking store.

The jobs of a sweep may run in other processes and on other machines; they report by files in its directory.
"""
