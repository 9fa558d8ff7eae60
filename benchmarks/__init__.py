"""What is compared with others: planner, training, loading, equivalence."""
