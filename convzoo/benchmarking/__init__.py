"""How fast a model answers, beside others in the same run."""
