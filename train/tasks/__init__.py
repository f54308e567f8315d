"""The tasks: representation, autoencoder (stages 1 to 3), diffusion (text-to-image and editing), class-conditional."""
