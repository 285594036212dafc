"""A copy of a dataset with smaller images."""
