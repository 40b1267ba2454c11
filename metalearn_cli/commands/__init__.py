"""What each word after `metalearn` does: one file a command, with its keys, help and completion."""
