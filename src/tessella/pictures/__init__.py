"""Pictures: opened from any file, drawn with what was kept, written whole or not at all."""
