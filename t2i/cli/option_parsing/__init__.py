"""Parsing of command-line options: quoted texts, numbers, paths, caches, and their errors."""
