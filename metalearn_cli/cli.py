"""The command `metalearn`: results on stdout, everything else on stderr, one sentence for each mistake."""

import io
import os
import sys
import traceback
from difflib import get_close_matches

from metalearn_cli.commands.completion import COMMANDS, load_command
from metalearn_cli.errors import RunFailed, SaidByAnother, UsageError, UserError, is_debugging
from metalearn_cli.system.console import tell
from metalearn_cli.system.processes import is_one_of_several
from metalearn_cli.system.signals import Interrupted, catch, end_at_once, leave_at_once, restore
from metalearn_cli.system.text import printable
from metalearn_cli.version import __version__

BEGINNING = """\
metalearn: train, test and compare few-shot learners

  metalearn train algo=maml task=sinusoid steps=1000 name=my-run
  metalearn eval run=outputs/my-run test_episodes=1000

"""

END = """
metalearn COMMAND --help has the keys and examples of each; metalearn --version the version.

Exit codes: 0 done, 1 a mistake or a failed run, 2 unknown command or option, 3 `expect` not met, 130 interrupted,
143 terminated, 129 terminal closed.
"""


def entry() -> None:
    # A stream that was closed (`2>&-`) is None, and its number would go to the next file that is opened.
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    sys.stdout, sys.stderr = sys.stdout or open(1, "w"), sys.stderr or open(2, "w")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a letter that a terminal does not have is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    code = main(sys.argv[1:])
    catch(end_at_once)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # a closed terminal: what is left for it would make another exit code
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    if is_one_of_several():
        os._exit(code)  # one rank of several: a thread of torch's may abort it on its way out, when all is written
    sys.exit(code)


def main(arguments: list[str]) -> int:
    """Run one command line -> the exit code."""
    before = catch(leave_at_once)
    try:
        return answer(arguments)
    except Interrupted as interrupted:  # while something else was said
        return interrupted.code
    finally:
        restore(before)


def answer(arguments: list[str]) -> int:
    """Run one command line, and say what ended it before its end -> the exit code."""
    code = 0
    try:
        code = run(arguments)
        sys.stdout.flush()
        return code
    except SaidByAnother as ended:
        return ended.code
    except (UsageError, UserError) as error:
        if is_debugging() and isinstance(error, UserError):
            raise
        tell(f"metalearn: {printable(str(error))}")
        return 2 if isinstance(error, UsageError) else 1
    except RunFailed as failed:
        tell("".join(traceback.format_exception(failed.__cause__)) + f"metalearn: {failed}")
        return 1
    except Interrupted as interrupted:
        tell(f"metalearn: stopped; {interrupted.advice or 'nothing was lost'}")
        return interrupted.code
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return code
    except OSError as error:
        if is_debugging():
            raise
        tell(f"metalearn: {error.strerror or error}: {printable(str(error.filename or 'the output, or a file'))}")
        return 1
    except Exception as error:
        from metalearn_cli.system.measure import is_out_of_memory

        if is_debugging() or not is_out_of_memory(error):
            raise
        what = " ".join(str(error).split()) or type(error).__name__
        tell(f"metalearn: there is not enough memory ({what}): take tasks_per_chunk=1, or a smaller model or task")
        return 1


def run(arguments: list[str]) -> int:
    name, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if name in ("help", "-h", "--help"):
        commands = sorted((load_command(command).PLACE, command) for command in COMMANDS)
        lines = [f"  {command:<12}{load_command(command).HELP.splitlines()[0]}\n" for _, command in commands]
        print(BEGINNING, *lines, END, sep="", end="")
        return 0
    if name == "--version":
        print(__version__)
        return 0
    if name not in COMMANDS:
        near = [f"did you mean {match}?" for match in get_close_matches(name, COMMANDS, n=1)]
        raise UsageError(f"there is no command {name}: {(near or ['see metalearn --help'])[0]}")
    command = load_command(name)
    if name == "completion":  # reads the words of another command
        return command.run(rest)
    if "--help" in rest or "-h" in rest:
        print(command.HELP, end="")
        return 0
    if unknown := [word for word in rest if word.startswith("-") and word not in getattr(command, "FLAGS", ())]:
        raise UsageError(f"{name} does not know {' '.join(unknown)}; see metalearn {name} --help")
    return command.run(rest)
