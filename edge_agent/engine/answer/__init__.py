"""The ways to an answer: labels, JSON, text."""
