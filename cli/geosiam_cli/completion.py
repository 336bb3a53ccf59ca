"""``geosiam completion``: completion of commands and options in a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from geosiam_cli import options

SHELLS = ("bash", "zsh", "fish")


@options.command("completion", examples=("geosiam completion bash >> ~/.bashrc", "geosiam completion zsh >> ~/.zshrc"))
@options.argument("shell", type=click.Choice(SHELLS))
def command(shell: str) -> None:
    """Print a script that completes commands in a shell.

    It completes commands, options and their values in SHELL. Append it to the file that the shell reads when it starts;
    of fish, write it to ~/.config/fish/completions/geosiam.fish.
    """
    from geosiam_cli.main import cli

    completion = get_completion_class(shell)
    assert completion is not None
    click.echo(completion(cli, {}, "geosiam", "_GEOSIAM_COMPLETE").source())
