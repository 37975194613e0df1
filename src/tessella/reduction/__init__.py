"""Visual-token reduction: one method a file."""
