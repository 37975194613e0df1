"""Doors through which other tools use Tessella: a model of lmms-eval. How to use them: `integrations/README.md`."""
