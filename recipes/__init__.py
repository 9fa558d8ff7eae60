"""One command from nothing to a model."""
