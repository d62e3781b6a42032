"""`edge-agent doctor`: whether this board can serve this configuration."""
