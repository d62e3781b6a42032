"""The two connections to the broker, and what travels over them."""
