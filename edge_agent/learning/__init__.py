"""Learns from what callers say of answers: kept answers, feedback, promises, students, and their commands."""
