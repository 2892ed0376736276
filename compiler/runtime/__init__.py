"""The C that is linked into every library, and the Python loader."""
