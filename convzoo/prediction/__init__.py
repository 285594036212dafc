"""Image files, wherever they are, to classes."""
