"""One subcommand a file: a click command over one pure function."""
