"""The only reader of the machine: /sys and /proc. A reading that does not exist is None, never 0."""
