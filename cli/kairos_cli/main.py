"""Entry point of the `kairos` command: find the verb, call it, turn every failure into one clear line.

Exit status: 0 done, 1 failed, 2 the command line makes no sense, 130 interrupted. KAIROS_DEBUG=1 shows tracebacks.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn, cast

from kairos.errors import KairosError
from kairos_cli.registry import GROUPS, VERBS, Verb

Handler = Callable[[argparse.Namespace], int | None]


class _Parser(argparse.ArgumentParser):
    """argparse, but errors are one line in our voice and abbreviations of options are not guessed."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"kairos: {message}; see `{self.prog} --help`\n")


def build_parser() -> argparse.ArgumentParser:
    """The whole command line, from the registry."""
    parser = _Parser(
        prog="kairos", description="Post-quantum private networks over your own fabric.", allow_abbrev=False
    )
    top = parser.add_subparsers(metavar="VERB", required=True, parser_class=_Parser)
    groups: dict[str, argparse._SubParsersAction[_Parser]] = {}
    for verb in VERBS:
        if verb.group in GROUPS:
            if verb.group not in groups:
                group = top.add_parser(verb.group, help=GROUPS[verb.group], description=GROUPS[verb.group])
                groups[verb.group] = group.add_subparsers(metavar="VERB", required=True, parser_class=_Parser)
            _add(groups[verb.group], verb, verb.name.removeprefix(verb.group + " "))
        else:
            _add(top, verb, verb.name)
    return parser


def _add(parsers: argparse._SubParsersAction[_Parser], verb: Verb, name: str) -> None:
    parser = parsers.add_parser(name, help=verb.help, description=verb.help[0].upper() + verb.help[1:] + ".")
    for argument in verb.arguments:
        parser.add_argument(*argument.flags, help=argument.help, **argument.options)
    parser.set_defaults(verb=verb)


def _handler(verb: Verb) -> Handler:
    module, _, function = verb.handler.partition(":")
    return cast(Handler, getattr(importlib.import_module(f"kairos_cli.{module}"), function))


def run(arguments: Sequence[str]) -> int:
    """Run one command line; errors propagate as exceptions."""
    options = build_parser().parse_args(arguments)
    return _handler(options.verb)(options) or 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script. Never lets a traceback reach a person who did not ask for one."""
    debug = os.environ.get("KAIROS_DEBUG", "") not in ("", "0")
    try:
        return run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `kairos audit list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except Exception as error:
        if debug:
            raise
        print(f"kairos: {explain(error)}", file=sys.stderr)
        return 1


def explain(error: Exception) -> str:
    """One line for a person. Of our own errors the text; of others also what kind it was."""
    from kairos.api.problem import ProblemError

    text = " ".join(str(error).split())
    match error:
        case KairosError() | ProblemError():
            return text
        case ModuleNotFoundError():
            return f"this installation lacks {error.name}; install kairos-red with the extra for this verb"
        case OSError():
            name = f"{error.filename}: " if error.filename else ""
            return f"{name}{error.strerror}" if error.strerror else text or type(error).__name__
        case _:
            return f"unexpected {type(error).__name__}: {text}; KAIROS_DEBUG=1 shows where"


if __name__ == "__main__":
    sys.exit(main())
