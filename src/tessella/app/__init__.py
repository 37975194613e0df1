"""What the commands do: ask, compare, list, diagnose, demonstrate."""
