"""Tasks: what a data set's rows ask of a model, and how well one does it."""
