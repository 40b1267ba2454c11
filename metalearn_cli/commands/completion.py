"""Completion of commands, keys, values and runs in a shell."""

from metalearn_cli.commands.help import COMMANDS
from metalearn_cli.commands.packed_sets import packed_sets
from metalearn_cli.config import conf_folder
from metalearn_cli.tasks.known_sets import about_sets

COMPLETION = {
    "bash": """\
_metalearn() {
  local IFS=$'\\n' word="${COMP_LINE:0:COMP_POINT}"
  word="${word##* }"
  local words=($(metalearn completion words "${COMP_WORDS[@]:1:COMP_CWORD-1}" "$word" 2>/dev/null))
  # bash cuts words at "=", and wants only what stands behind the last one.
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


# Commands that take folders of runs, with their options.
FOLDER_KEYS = {"compare": ("step", "batch_norm", "out"), "report": ("out", "csv")}


def completions(words: list[str]) -> list[str]:
    """What the last of the words (the command is the first) can become; a space ends what is complete."""
    command, last = words[0], words[-1]
    key, equals, typed = last.partition("=")
    if len(words) == 1:
        options = [f"{name} " for name in COMMANDS]
    elif command == "list":
        options = [*conf_folder.GROUPS, *conf_folder.PRESETS, "metric"]
    elif command == "completion":
        options = list(COMPLETION)
    elif command == "data":
        options = _data_options(words[1:-1])
    elif command == "reproduce":
        options = ["--seeds ", "--budget ", "--list ", "--table ", *(f"{name} " for name in conf_folder.published())]
    elif command in FOLDER_KEYS:
        options = [*conf_folder.folders_of_runs(last), *(f"{key}=" for key in FOLDER_KEYS[command])]
        options += [f"batch_norm={mode} " for mode in conf_folder.values_of("batch_norm")] if equals else []
    elif command in conf_folder.USE_KEYS:
        options = _use_options(command, key, typed if equals else None)
    elif command not in ("train", "eval", "bench"):
        options = []
    elif words[-2] == "--cfg":
        options = ["job"]
    elif last.startswith("-"):
        options = ["-m ", "--cfg ", "--help "] if command == "train" else ["--help "]
    elif equals and command == "eval" and key == "run":
        options = [f"run={path}" for path in conf_folder.folders_of_runs(typed)]
    elif equals and key in (*conf_folder.GROUPS, *conf_folder.PRESETS):
        options = [f"{key}={choice} " for choice in conf_folder.list_choices(key)]
    elif equals:
        options = [f"{key}={value} " for value in conf_folder.values_of(key)]
    else:
        groups = ("task",) if command == "eval" else conf_folder.GROUPS
        keys = [
            key
            for group in groups
            for choice in conf_folder.list_choices(group)
            for key in conf_folder.keys_of(group, choice)
        ]
        rest = (
            ["run", *conf_folder.EVAL_KEYS]
            if command == "eval"
            else [*groups, *conf_folder.PRESETS, *conf_folder.run_keys()]
        )
        options = [f"{key}=" for key in [*rest, *keys]]
    return sorted({option for option in options if option.startswith(last)})


def _use_options(command: str, key: str, typed: str | None) -> list[str]:
    """Of predict and export; paths but a run's are the shell's."""
    if typed is None:
        return [f"{name}=" for name in conf_folder.USE_KEYS[command]] + ["--help "]
    if key == "run":
        return [f"run={path}" for path in conf_folder.folders_of_runs(typed)]
    return [f"{key}={value} " for value in conf_folder.values_of(key)] if key in conf_folder.USE_KEYS[command] else []


def _data_options(before: list[str]) -> list[str]:
    match before:
        case []:
            return ["prepare ", "verify ", "path ", "list ", "clean "]
        case ["list", *_]:
            return []
        case ["clean", *names]:
            return [f"{one.name} " for one in packed_sets() if one.name not in names] + ["unused="] * (not names)
        case [action]:
            return [f"{name} " for name in (*about_sets(), *(["image_folder"] if action == "prepare" else []))]
        case ["prepare", "image_folder", *_]:
            return [f"{key}=" for key in conf_folder.keys_of("task", "image_folder")]
        case ["prepare", *_]:
            return ["archive=", "root="]
        case _:
            return ["root="]
