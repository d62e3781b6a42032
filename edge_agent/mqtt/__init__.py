"""The connections to the broker: what comes and goes over them, and what becomes of it."""
