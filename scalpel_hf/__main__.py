"""`python -m scalpel_hf` is the command `scalpel-hf`."""

from .cli.main import main

if __name__ == "__main__":
    main()
