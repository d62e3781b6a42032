"""Models of the sizes that take hours, through the converter."""
