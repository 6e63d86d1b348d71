"""Tasks: heads that read a backbone's maps; one paper a file."""
