"""Pages in the browser. `python -m scalpel_hf.app.review_page RUN`: accept, reject or mend pseudo labels."""
