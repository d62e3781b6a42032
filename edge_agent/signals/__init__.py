"""Values of several topics -> one reading for each machine, with its last minutes."""
