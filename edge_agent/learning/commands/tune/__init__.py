"""`edge-agent tune`: finds the prompt and the score map with which a `classify` task is right most often."""
