"""keras-dit average: an average of any length, from the snapshots of a run."""

import pathlib
import shlex

from keras_dit.cli import common, models, options
from keras_dit.training import posthoc, snapshots

HELP = "make an average of the weights of any length, after training"
EXAMPLE = """\
RUN is the folder of a `keras-dit train --averages` run, whose snapshots are
combined to the average that would have been tracked, had its length been known.
A length is a share of the training: 0.1 forgets within about a tenth of it.
Without --std it is said which lengths there are. Which is best is measured by
`keras-dit evaluate RUN --average-std 0.05,0.1,0.15`.

examples:
  keras-dit average runs/digits
  keras-dit average runs/digits --std 0.15
  keras-dit average runs/digits --std 0.07 --at 4096 --target early.keras"""


def add_arguments(command):
    add = command.add_argument
    add("run_folder", metavar="RUN")
    add("--std", type=options.positive_number, metavar="STD", help="the length that is wanted")
    at = "updates of the snapshot at which it ends; default: the last one"
    add("--at", type=options.count, metavar="N", help=at)
    add("--target", metavar="FILE", help="a .keras file; default: RUN/average-STD.keras")


def run(arguments):
    folder = pathlib.Path(arguments.run_folder)
    if arguments.std is None:
        if arguments.at or arguments.target:
            raise ValueError("--at and --target go with --std")
        print(_there(models.snapshots_of(folder)))
        return
    target = pathlib.Path(arguments.target or folder / f"average-{arguments.std:g}.keras")
    if target.suffix != ".keras":
        raise ValueError(f"--target must be a .keras file. Received: {target}")
    with common.claimed(target.parent):
        found = models.load(str(folder), average_std=arguments.std, at=arguments.at)
        common.save_model(models.sampling(found.diffusion), target)
    print(f"{found.taken}, written to {target}")
    print(f"images: keras-dit sample {shlex.quote(str(target))}")


def _there(folder):
    """What the snapshots of a run are, and the lengths that they give."""
    found = snapshots.opened(folder)
    stds, last = found[-1].stds, found[-1].at
    each = [std for snapshot in found for std in snapshot.stds]
    times = [snapshot.at for snapshot in found for _ in snapshot.stds]
    low, high = posthoc.reach(each, times, last)
    size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    return (
        f"{common.counted(len(found), 'snapshot')} of {' and '.join(f'{s:g}' for s in stds)}, "
        f"from update {found[0].at:,} to {last:,}, {size:,.1f} MB\n"
        f"averages from --std {low:.2g} to {high:.2g}"
    )
