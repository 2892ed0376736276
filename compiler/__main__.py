"""``python -m compiler``: the same program as the console script ``edgecc``."""

from compiler.cli import main

if __name__ == "__main__":
    main()
