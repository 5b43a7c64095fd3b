"""Processes that score verification scans for the one that trains: `pool.py` here, `worker.py` there."""
