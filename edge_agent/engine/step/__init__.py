"""What the next step decodes, and what steps cost here."""
