"""What the files of a model folder prove."""
