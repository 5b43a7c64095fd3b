"""The tour of the travelling model, with and without control; verification and its workers."""
