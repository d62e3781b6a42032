"""A SIMULATION of a Raspberry Pi 5 that gets hot, to try the governor in closed loop. No board was measured here."""
