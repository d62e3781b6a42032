"""`edge-convert train`: makes a small model of a plant's own from labelled rows."""
