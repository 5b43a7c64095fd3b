"""The files of a run: directory, checkpoints and resume, trace; also signals and progress."""
