"""Scripts that reproduce published comparisons, one per table."""
