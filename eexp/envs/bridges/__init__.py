"""Environments that run elsewhere: programs, and servers of AgentGym, OpenEnv and MCP.

What comes in are the command or the URL of a spec, its options, tasks and actions. What goes out are requests to the
program or the server, and its answers, checked, as observations. What must hold: whatever the other side does, dies,
hangs or answers wrongly, costs one record and a message of one line, and a bridge imports what a class from elsewhere
may import and its own modules here.
"""
