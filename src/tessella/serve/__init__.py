"""Serving: an OpenAI-compatible server with a visual budget for each request, and a page that shows what was kept."""
