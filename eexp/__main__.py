"""`python -m eexp` is the `eexp` command."""

from eexp.cli import main

if __name__ == "__main__":
    main()
