"""How the network learns: recipes, targets, losses, trainer, checkpoints and evaluation runs."""
