"""A seeded storm of faults over real processes, and an independent record of requests and replies."""
