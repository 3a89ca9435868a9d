"""Names of the files that a command writes, none of which replaces another."""
