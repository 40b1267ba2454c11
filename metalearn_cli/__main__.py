from metalearn_cli.cli import entry

entry()
