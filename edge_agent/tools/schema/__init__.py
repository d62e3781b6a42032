"""`edge-agent schema`: what a document holds, for editors and clients."""

SCHEMAS = ("config", "request", "reply", "health", "info")
