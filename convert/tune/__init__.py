"""The choice of a type for every tensor, by what each costs in bytes and in fidelity."""
