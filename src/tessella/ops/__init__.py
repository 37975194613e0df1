"""Pure tensor functions: attention, similarity, selection, merging, grids and draws. They know no model."""
