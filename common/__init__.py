"""Error, file and image utilities of all packages; imports no other package of this project."""
