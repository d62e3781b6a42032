"""What people run by hand; cli.py lists the commands."""
