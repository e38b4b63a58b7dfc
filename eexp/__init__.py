"""Early experience for language agents, from the shell: branch, execute, reflect, train."""

__version__ = "0.2.0"
