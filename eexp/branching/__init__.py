"""Alternatives to the expert's actions: how they are drawn, and how they are executed."""
