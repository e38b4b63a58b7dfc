"""Settings of the stages whose work is done by the packages below the stages, which read them, too."""
