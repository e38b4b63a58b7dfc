"""Environments that run elsewhere: programs, and servers of AgentGym and OpenEnv."""
