"""The registry: its host names, its tokens, and what a token may pull."""
