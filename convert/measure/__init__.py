"""What a model does with texts: the inputs of its matrices, and how far another model's answers are from its own."""
