"""OpenAI's chat API: its requests as they are checked, its answers as they are written."""
