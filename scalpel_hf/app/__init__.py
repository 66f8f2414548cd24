"""Pages in the browser.

`scalpel-hf review RUN`: accept, reject or mend pseudo labels. `scalpel-hf app MODEL`: look at a model's answers.
"""
