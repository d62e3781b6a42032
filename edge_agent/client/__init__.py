"""Commands of the command line that ask an agent over the bus."""
