"""The ``netstack`` command: tables, progress and plots live here and nowhere else."""
