"""Pages in the browser. `python -m scalpel_hf.app.review RUN`: accept, reject or mend pseudo labels."""
