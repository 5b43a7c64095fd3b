"""The tour over the centers, with and without control; verification and its workers."""
