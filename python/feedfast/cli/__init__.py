"""The `feedfast` command: one module per subcommand, argument parsing and printing only."""
