"""Runs: the compiled loop of a round, one or many at once, and what they leave."""
