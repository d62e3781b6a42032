"""What the board feels, and how much the agent may do."""
