"""
Pages in the browser.

`scalpel-hf review RUN` is for accepting, rejecting or correcting pseudo labels, `scalpel-hf app MODEL` for trying a
model.
"""
