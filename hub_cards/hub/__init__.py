"""Names, tokens, staging and pushing: everything that writes to the Hub."""
