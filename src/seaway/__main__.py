"""``python -m seaway``."""

from seaway.cli import main

main()
