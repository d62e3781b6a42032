"""The only reader of the machine: /sys, /proc and what psutil knows. A reading that does not exist is None, never 0."""
