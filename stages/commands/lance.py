"""The command `lance`: what people type beside dvc."""

from collections.abc import Callable

from stages import check
from stages.commands import plan, preset, push, store, suite
from stages.core.command import application, documentation, execute

COMMANDS: dict[str, Callable[..., None]] = {
    "check": check.main,
    "plan": plan.main,
    "preset": preset.main,
    "suite": suite.main,
    "store": store.main,
    "push": push.main,
}


def main() -> None:
    """Run the command line's subcommand; each is the `main` of its module, whose docstring is its help."""
    app = application()
    for name, command in COMMANDS.items():
        app.command(name, help=documentation(command))(command)
    execute(app, "lance")


if __name__ == "__main__":
    main()
