"""Formats of other projects: conversations, episodes, evaluation logs and rows of chat messages, read and written.

What comes in are lines or files as another project writes them, or records of ours. What goes out are records of ours,
or lines as the other project reads them. What must hold: nothing is guessed, so a line of another form is an InputError
that names the place, and what a format cannot say is left out and never made up.
"""
