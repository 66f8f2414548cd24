"""`evaluate` module of the infrared small-target metrics; load it with `evaluate.load` and this folder's path."""
