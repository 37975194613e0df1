"""Instruments: what a model does with its visual tokens, measured and drawn."""
