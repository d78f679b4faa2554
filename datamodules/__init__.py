"""Data modules, one file per source of data. They do not depend on any model."""
