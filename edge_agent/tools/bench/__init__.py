"""`edge-agent bench`: what this board can do with this model."""
