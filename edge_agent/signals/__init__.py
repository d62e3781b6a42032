"""Joins single values of a plant into one reading for each machine, with the features of a sliding window."""
