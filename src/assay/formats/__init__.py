"""Preferences as people keep them: files, layouts, conversations, pictures, read row by row or by the block."""
