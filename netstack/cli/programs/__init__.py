"""The programs of ``netstack demo``: plain standard-library programs that know nothing of this package."""
