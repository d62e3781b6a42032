"""Asks a finished model as the agent does on a board: by its tasks and its worker."""
