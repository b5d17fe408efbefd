"""Progress on the terminal, the records of a run, its summary and its page."""
