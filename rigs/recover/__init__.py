"""What training through the rounding gains."""
