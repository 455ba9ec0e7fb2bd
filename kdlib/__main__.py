"""``python -m kdlib``."""

from kdlib.cli import main

if __name__ == "__main__":
    main()
