"""Training, data and evaluation: reproduces every checkpoint of the studio."""
