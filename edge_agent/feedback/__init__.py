"""What callers say of answers: kept, learnt from, and measured."""
