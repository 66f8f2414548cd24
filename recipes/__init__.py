"""What is trained, and with which settings: a program a stage, and YAML files by data set and label budget."""
