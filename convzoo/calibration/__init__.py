"""One temperature for the logits of a model, so that its probabilities are chances."""
