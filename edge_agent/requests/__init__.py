"""A request's way from its message to its reply."""
