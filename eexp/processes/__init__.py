"""Run other programs as children of this process, and end them with everything they started."""
