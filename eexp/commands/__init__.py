"""The commands of `eexp`, one file each.

What comes in are arguments and options, files and standard input. What goes out are records on standard output or in
the file of `-o`, messages for a person on standard error, and an exit code. A command parses, opens and counts, and the
work is done by a function of a room below, which Python can call as well. What must hold: a module here imports what
its help needs at its top and all else inside its function, and no command imports another.
"""
