"""Reasoning benchmarks, and the answer checkers that RL shares with them."""
