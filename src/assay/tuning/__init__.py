"""A policy tuned: the recipe's stages, and each of them on a user's own model and questions (paper B)."""
