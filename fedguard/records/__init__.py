"""The files of a run directory: written, read, checkpointed."""
