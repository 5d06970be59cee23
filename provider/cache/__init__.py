"""The credential cache: registry tokens shared between processes."""
