"""The world model and its heads, as networks."""
