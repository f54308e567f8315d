"""Training, data and evaluation of the studio's checkpoints."""
