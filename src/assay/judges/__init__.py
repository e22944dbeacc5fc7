"""The commands that ask language models about pairs: which are asked, of what, and what became of it."""
