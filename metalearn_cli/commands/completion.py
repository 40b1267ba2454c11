"""Which commands there are, and what a shell needs to complete them, their keys, values and runs."""

import importlib
from pathlib import Path
from typing import Protocol

from metalearn_cli.errors import UsageError

# Each is a file of this folder.
COMMANDS = tuple(sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py")))


class Command(Protocol):
    """What the file of a command has, besides FLAGS, the words it takes that begin with "-", if there are some. It is
    light to import: what is heavy is imported within `run`."""

    PLACE: int  # in the list of `metalearn --help`
    HELP: str  # its first line says what the command does

    def complete(self, words: list[str]) -> list[str]:
        """What the last of the words after the command can become; a space ends what is complete."""

    def run(self, arguments: list[str]) -> int:
        """Do what the words after the command ask for -> the exit code."""


def load_command(name: str) -> Command:
    command: Command = importlib.import_module(f"metalearn_cli.commands.{name}")
    return command


PLACE = 13
HELP = """\
Completion of commands, keys, values and runs in a shell.

  eval "$(metalearn completion bash)"         in ~/.bashrc; zsh likewise
  metalearn completion fish | source          in ~/.config/fish/config.fish
"""

SCRIPTS = {
    "bash": """\
_metalearn() {
  local IFS=$'\\n' word="${COMP_LINE:0:COMP_POINT}"
  word="${word##* }"
  local words=($(metalearn completion words "${COMP_WORDS[@]:1:COMP_CWORD-1}" "$word" 2>/dev/null))
  # bash cuts words at "=", and needs only what stands behind the last one.
  [[ $word == *=* && $COMP_WORDBREAKS == *=* ]] && words=("${words[@]#"${word%=*}="}")
  COMPREPLY=("${words[@]}")
}
complete -o nospace -F _metalearn metalearn
""",
    "zsh": """\
_metalearn() {
  local -a found=("${(@f)$(metalearn completion words "${(@)words[2,CURRENT]}" 2>/dev/null)}")
  compadd -Q -S '' -- "${found[@]}"
}
compdef _metalearn metalearn
""",
    "fish": """\
function __metalearn
  set -l before (commandline -opc)
  metalearn completion words $before[2..] (commandline -ct) 2>/dev/null | string trim -r
end
complete -c metalearn -f -a '(__metalearn)'
""",
}


def complete(words: list[str]) -> list[str]:
    return list(SCRIPTS)


def run(arguments: list[str]) -> int:
    """Print what a shell needs, or, as the shell asks at each TAB, what the last of these words can become."""
    match arguments:
        case [shell] if shell in SCRIPTS:
            print(SCRIPTS[shell], end="")
        case ["words", *words]:
            print("\n".join(completions(words)))
        case ["--help" | "-h"]:
            print(HELP, end="")
        case _:
            raise UsageError("completion needs one of bash, zsh, fish; see metalearn completion --help")
    return 0


def completions(words: list[str]) -> list[str]:
    """What the last of the words (the command is the first) can become; a space ends what is complete."""
    command, *rest = words
    options = [f"{name} " for name in COMMANDS]
    if rest:
        options = load_command(command).complete(rest) if command in COMMANDS else []
    return sorted({option for option in options if option.startswith(words[-1])})
