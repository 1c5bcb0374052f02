"""`python -m mambamed`: the command line without the installed script."""

from mambamed.cli import main

if __name__ == "__main__":
    main()
