"""How right answers are, and how scores become right more often: functions of numbers."""
