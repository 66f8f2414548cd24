"""What users run: the programs, and how each is run."""
