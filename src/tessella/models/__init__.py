"""Adapters: one a model family. They know where visual tokens are and what can be read or cut."""
