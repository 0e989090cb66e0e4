"""`python -m ablate.cli` is `ablate`."""

from ablate.cli import main

main()
