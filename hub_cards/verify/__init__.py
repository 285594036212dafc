"""Check a published model by measuring it again."""
