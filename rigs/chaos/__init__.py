"""Real processes under a seeded storm of faults, and an independent record of what was asked and answered."""
