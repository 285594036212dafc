"""A recipe: every setting of a training run."""
