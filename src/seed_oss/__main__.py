"""`python -m seed_oss`: the same as the command `seed-oss`."""

from seed_oss.cli import main

if __name__ == "__main__":
    main()
