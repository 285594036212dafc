"""What is in a dataset, or in a model."""
