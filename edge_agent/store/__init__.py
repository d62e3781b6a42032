"""Requests, replies and the quarantine on disk."""
