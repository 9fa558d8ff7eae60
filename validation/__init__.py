"""What is done to the system: faults, fuzz, soak, checks."""
