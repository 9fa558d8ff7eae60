"""Planning in latent space: feasible motion, samplers, receding horizon."""
