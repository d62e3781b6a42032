"""What a board tells of itself, on retained topics."""
