"""The command `scalpel-hf`: one module for each verb, and what the verbs share."""
