"""Learns from what callers say about answers: kept answers, feedback, promises, students, and their commands."""
