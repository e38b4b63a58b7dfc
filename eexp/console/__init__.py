"""The command line that the commands share: options, input and output, rejects, resume, and records as text.

What comes in are the arguments and files of a command, and settings whose fields are its options. What goes out is a
stream of checked records, and the place to write others. What must hold: an option that several commands have is
spelled once, standard output has records only, every record that is set aside is counted and can be kept, and a run
that is resumed writes what an uninterrupted one would have written.
"""
