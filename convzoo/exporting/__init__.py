"""A model becomes a file that runs without this package, checked against the model."""
