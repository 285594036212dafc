"""The model card, from evidence."""
