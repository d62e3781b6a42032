"""What a board reports about itself, on retained topics. It reads snapshots of the other parts and changes none."""
