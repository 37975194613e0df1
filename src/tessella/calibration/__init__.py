"""Settings fitted to a model on a user's own samples, and recipes that keep them."""
