"""What people run by hand: ask, command, watch, doctor, diag, bench, probe, demo."""
