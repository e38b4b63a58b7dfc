"""Run environments in worker processes, and many episodes at once."""
