"""Run any Hugging Face vision-language model on a fraction of its visual tokens."""
