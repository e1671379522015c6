"""`python -m sensitivity`."""

from sensitivity.cli.main import main

main()
