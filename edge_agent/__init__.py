"""edge-agent: an LLM inference node on a factory's MQTT bus."""

__version__ = "0.2.0"
