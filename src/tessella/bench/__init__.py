"""The ruler: the same questions under many settings, one record a sample, and statistics that know their noise."""
