"""Predictions of a model on a split, and what they show."""
