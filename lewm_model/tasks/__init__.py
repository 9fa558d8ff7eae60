"""Tasks: how they begin, what their goal is, when they succeeded."""
