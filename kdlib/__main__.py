"""``python -m kdlib`` is ``kdlib``."""

from kdlib.cli import main

if __name__ == "__main__":
    main()
