"""Encoded bytes to pixels, crops and augmented batches."""
