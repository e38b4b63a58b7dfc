"""An example of a package that adds to eexp, one module a kind."""
