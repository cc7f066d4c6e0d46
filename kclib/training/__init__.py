"""Training what is compared: classifiers, pruned and born-again ones, and tails on features."""
