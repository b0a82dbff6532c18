"""`python -m luthier` is the command line."""

from luthier.cli.main import main

main()
