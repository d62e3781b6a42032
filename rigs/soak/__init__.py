"""The agent under a factory's load for hours: what grows, what is lost, what a request writes to the disk."""
