"""One page about the mistakes of a model, from the predictions of an evaluation."""
