"""What a training step changes, and where a run stands."""
