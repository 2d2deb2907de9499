"""`python -m armd_dist` is `armd`."""

from armd_dist.cli.main import main

if __name__ == "__main__":
    main()
