"""Evidence: what the files of a model folder prove, read and checked against each other."""
