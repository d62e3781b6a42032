"""From a task and its messages to prompt tokens; prefixes that are computed once."""
