"""Pages in the browser. `scalpel-hf review RUN`: accept, reject or mend pseudo labels."""
