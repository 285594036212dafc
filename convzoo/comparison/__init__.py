"""Models that were evaluated on the same images, against each other."""
