"""A SIMULATION of a Raspberry Pi 5 that gets hot, with the governor in closed loop. No board was measured."""
