"""The equal-budget study: compact tokenizers after six ideas, the same diffusion transformer on each latent.

python -m train study stickers-256
"""
