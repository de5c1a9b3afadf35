"""The command line: the table of commands, the parser and the help that are made from it, and what runs a command."""
