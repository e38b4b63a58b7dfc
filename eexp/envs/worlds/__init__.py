"""Environments that run in Python on this machine, one file each."""
