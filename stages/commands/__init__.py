"""The subcommands of `lance`, a module or folder for each."""
