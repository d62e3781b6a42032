"""Values and small tools that every other package shares. Imports no other package of the agent."""
