"""The only reader of the machine. A reading that does not exist is None, never 0."""
