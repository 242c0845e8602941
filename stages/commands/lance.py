"""The command `lance`: what people type beside dvc."""

from collections.abc import Callable

from stages import check
from stages.commands import evidence, plan, preset, preview, push, suite
from stages.commands.benchmark import command as benchmark
from stages.commands.label import command as label
from stages.commands.store import command as store
from stages.core.command import application, documentation, execute

COMMANDS: dict[str, Callable[..., None]] = {
    "check": check.main,
    "preview": preview.main,
    "plan": plan.main,
    "preset": preset.main,
    "suite": suite.main,
    "label": label.main,
    "store": store.main,
    "push": push.main,
    "benchmark": benchmark.main,
    "evidence": evidence.main,
}


def main() -> None:
    """Run the subcommand named on the command line. `lance --help` lists the first line of each `main`'s docstring;
    `lance NAME --help` shows the docstring of its module."""
    app = application()
    for name, command in COMMANDS.items():
        summary = (command.__doc__ or "").partition("\n")[0] or None
        app.command(name, help=documentation(command), short_help=summary)(command)
    execute(app, "lance")


if __name__ == "__main__":
    main()
