"""The kinds of task: what each asks the model, and what its answers are."""
