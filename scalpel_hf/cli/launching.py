"""The two flags with which verbs that train or label start several processes, by Accelerate."""

import argparse
import sys

from scalpel_hf.utils.recipe_files import ACCELERATE, recipe_file

from .numbers import between

LAUNCH_HELP = """Several processes share the work, started by Accelerate:
  --num-processes N          N GPUs, or without a GPU N processes on the CPU
  --accelerate-config FILE   as `accelerate config` writes it, or one that comes with the package: cpu,
                             cpu_two_processes, one_gpu, several_gpus, two_machines"""


def launch_or_rest(module: str, argv: list[str] | None) -> list[str]:
    """
    Start several processes where a verb's arguments ask for them.

    With `--num-processes` or `--accelerate-config`, this is `accelerate launch -m MODULE` with the other arguments, and
    the function doesn't return. Without them it returns the arguments unchanged.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--num-processes", type=between(int, 1, 1024))
    parser.add_argument("--accelerate-config")
    options, rest = parser.parse_known_args(argv)
    if options.num_processes is None and options.accelerate_config is None:
        return argv
    launch([*_flags(options.num_processes, options.accelerate_config), "-m", module, *rest])
    raise SystemExit(0)


def launch(arguments: list[str]) -> None:
    """`accelerate launch` with arguments. Where a process fails, a line in place of the launcher's own traceback."""
    from accelerate.commands import launch as accelerate_launch  # here, as torch below
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    command = accelerate_launch.launch_command_parser().parse_args(["--quiet", *arguments])
    sys.stdout.flush()
    try:
        accelerate_launch.launch_command(command)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        print(f"error: process {rank} stopped; its own message stands above", file=sys.stderr)
        raise SystemExit(max(failure.exitcode, 1)) from None


def _flags(processes: int | None, config: str | None) -> list[str]:
    """The flags of `accelerate launch`."""
    import torch  # here, so that commands without these flags don't wait for it

    count = [] if processes is None else ["--num_processes", str(processes)]
    if config is not None:
        return ["--config_file", str(recipe_file(config, ACCELERATE)), *count]
    if not torch.cuda.is_available():
        name = "cpu" if processes == 1 else "cpu_two_processes"
        return ["--config_file", str(recipe_file(name, ACCELERATE)), *count]
    flags = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    return [*(["--multi_gpu"] if processes != 1 else []), *count, *flags]
