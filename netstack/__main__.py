"""``python -m netstack``."""

from netstack.cli.main import main

if __name__ == "__main__":
    main(prog_name="netstack")
