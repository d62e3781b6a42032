"""How right a task's answers are, as functions of numbers: maps of scores, their fit, promises, drift."""
