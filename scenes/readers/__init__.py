"""How do foreign recordings become clips? Conventions are converted here, once, and nowhere else."""
