"""Judges a finished model: against its reference on texts, on labelled examples of tasks, and by recording canaries."""
