"""The agent's side of the process border: the worker process, its life and its memory."""
