"""Generated pages: the table in README.md, and the Markdown sources of the documentation site."""
