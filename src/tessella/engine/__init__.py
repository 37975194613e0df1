"""The engine applies a pipeline to a model: hooks, captures, masks, positions, caches, report."""
