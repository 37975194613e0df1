"""Search for the cheapest reduction of a user's own questions, or for the best at a given cost."""
