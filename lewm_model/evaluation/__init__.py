"""How good a model and its planner are: tasks, closed loop, figures."""
