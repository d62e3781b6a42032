"""What an operator may have the agent do, and how it is done."""
