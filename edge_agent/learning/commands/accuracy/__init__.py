"""`edge-agent accuracy`: how often a task's answers are right, from the answers that a board keeps."""
