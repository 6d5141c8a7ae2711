"""``python -m seqdsd`` is ``seqdsd``."""

from seqdsd.cli import main

if __name__ == "__main__":
    main()
