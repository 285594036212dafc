"""Weights that other projects published, to a model folder."""
