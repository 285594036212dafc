"""Which bytes, in which order: splits, row groups, the exact data order, streams of batches."""
