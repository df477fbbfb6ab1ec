"""keras-dit evaluate: how good generated images are, beside real ones."""

import time

from keras_dit import backend, datasets, evaluation, solvers
from keras_dit.cli import common, looks, models, options, sample, sweep
from keras_dit.evaluation import Plan, references
from keras_dit.schedules import GRIDS

HELP = "score a model's images, or a folder of them, beside real ones"
EXAMPLE = """\
Makes images and compares them with REFERENCE: a data set as for `keras-dit
train`, an .npz of images (arr_0), or one of statistics (mu, sigma) such as those
of ADM and JiT. DIR gets report.json, which says all that a score depends on.
Interrupted, or killed, the same command goes on, and ends at the same report.

FID, sFID, KID, Inception score, precision and recall take the weights of
Inception: --features FILE, or an address that says its SHA-256. Without them
scores are of pixels, or of a small classifier trained on the reference, and are
named so.

examples:
  keras-dit evaluate runs/digits --reference digits --features classifier
  keras-dit evaluate runs/photos --reference photos/ --num-images 50000
    --guidance 1.5 --features weights-inception-2015-12-05-6726825d.pth
  keras-dit evaluate runs/digits --reference digits --num-images 2000
    --sweep guidance=1,1.5,2,4 --sweep steps=10,20,50
  keras-dit evaluate runs/photos --reference photos/ --average-std 0.05,0.1,0.15
  keras-dit evaluate --images samples.npz --reference photos/"""

NUM_IMAGES = 10_000


def add_arguments(command):
    add = command.add_argument
    add("model", metavar="MODEL", nargs="?", help="as for `keras-dit sample`")
    add("--images", metavar="IMAGES", help="a set of images to score instead of a model's")
    reference = "real images, or their statistics: a data set, a folder or an .npz file"
    add("--reference", metavar="REFERENCE", required=True, help=reference)
    out = "where report.json is written (default: %(default)s)"
    add("--out", metavar="DIR", default="evaluation", help=out)
    _add_what(command.add_argument_group("what is made"))
    sample.add_how(command.add_argument_group("how it is sampled"))
    sample.add_guidance(command.add_argument_group("guidance"))
    sample.add_cache(command.add_argument_group("parts left out, for speed"))
    _add_scores(command.add_argument_group("scores"))
    models.add_arguments(command.add_argument_group("which weights"))
    command.set_defaults(guidance=1.0)


def _add_what(group):
    count = {"type": options.count, "metavar": "N"}
    group.add_argument("--num-images", **count, default=NUM_IMAGES, help="default: %(default)s")
    labels = {"type": options.one_of(evaluation.POLICIES), "metavar": "NAME", "default": "balanced"}
    group.add_argument(
        "--labels",
        **labels,
        help="balanced: each class in turn; data: as often as in the reference, which captions "
        "and the like always are; none: nothing is said (default: %(default)s)",
    )
    seed = "of the first image, the next ones count up (default: %(default)s)"
    group.add_argument("--seed", type=options.natural, metavar="N", default=0, help=seed)
    size = {**count, "default": 64, "help": "at once, at most (default: %(default)s)"}
    group.add_argument("--batch-size", **size)
    models.add_dtype(group)
    options.add_devices(group)
    kept = "keep the images: a folder, or an .npz file as ADM's samples"
    group.add_argument("--keep", metavar="PLACE", help=kept)


def _add_scores(group):
    add = group.add_argument
    names = ", ".join(evaluation.FEATURES)
    which = f"{names}, a file or an address (default: %(default)s)"
    add("--features", metavar="WHAT", default="pixels", help=which)
    rounds = "rounds for an interval of the Frechet distance, such as 100"
    add("--bootstrap", type=options.count, metavar="N", help=rounds)
    add("--image-size", type=options.size, metavar="SIZE", help="of folders beside --images")
    channels = "of folders beside --images; 1: grey"
    add("--channels", type=int, choices=(1, 3), help=channels)
    swept = f"{', '.join(sweep.SWEPT)}, with several values; may be repeated"
    add("--sweep", action="append", metavar="NAME=A,B", default=[], help=swept)


def run(arguments):
    if (arguments.model is None) == (arguments.images is None):
        raise ValueError("give a MODEL, or a set of images by --images, and not both")
    cells = sweep.cells([*arguments.sweep, *_several(arguments)])
    if "average-std" in cells[0] and (arguments.raw or arguments.checkpoint):
        raise ValueError("--average-std, --checkpoint and --raw are different weights: give one")
    with common.claimed(arguments.out) as out:
        if arguments.images is not None:
            if cells != [{}] or arguments.keep or (arguments.devices or 1) > 1:
                raise ValueError("--sweep, --keep and --devices are for a MODEL")
            report = _compared(arguments, out)
        elif cells == [{}]:
            report = _Model(arguments).report(arguments, out, arguments.keep)
        else:
            _swept(arguments, cells, out)
            return
    print(common.table(report.rows()))
    for note in report.notes:
        print(f"note: {note}")
    print(f"all that they depend on: {out / 'report.json'}")


def _several(arguments):
    """The lengths of the average as a sweep, where there are several."""
    stds = arguments.average_std
    if not isinstance(stds, list) or arguments.model is None:
        return []
    arguments.average_std = None
    return [f"average-std={','.join(f'{std:g}' for std in stds)}"]


def _features(arguments, data):
    return evaluation.open_features(arguments.features, data, verbose=True)


def _compared(arguments, out):
    """The report of two sets of images."""
    size = {"image_size": arguments.image_size, "channels": arguments.channels}
    reference = arguments.reference
    if not references.is_published(reference):
        reference = datasets.load(reference, **size)
    data = reference if isinstance(reference, datasets.ImageBatches) else None
    features = _features(arguments, data)
    size |= {"bootstrap": arguments.bootstrap, "verbose": True}
    known = _reference(arguments, reference, features)
    report = evaluation.compare(arguments.images, known, features, **size)
    report.save(out / "report.json")
    return report


def _reference(arguments, source, features):
    found = evaluation.reference(source, features, verbose=True)
    return found._replace(facts={**found.facts, "source": arguments.reference})


class _Model:
    """A model with the features and the reference that its images are scored by."""

    def __init__(self, arguments):
        self.found = models.load(arguments.model, **models.chosen(arguments))
        self.average_std, self.sampling = arguments.average_std, {}
        diffusion = self.found.diffusion
        height, width, channels = evaluation.image_shape(diffusion)
        source = arguments.reference
        if not references.is_published(source):
            source = datasets.load(source, image_size=(height, width), channels=channels)
        data = source if isinstance(source, datasets.ImageBatches) else None
        with backend.first():  # both are stored
            self.features = _features(arguments, data)
            self.reference = _reference(arguments, source, self.features)

    def report(self, arguments, out, keep=None):
        """Make the images of these settings and score them; the report is in the folder."""
        diffusion, names = self._diffusion(arguments), self.found.class_names
        plan = Plan(
            num_images=arguments.num_images,
            labels=arguments.labels,
            steps=arguments.steps or looks.steps(diffusion.network),
            solver=solvers.named(arguments.solver),
            guidance=sample.guidance_of(arguments, diffusion.network, names),
            grid=GRIDS.get(arguments.grid),
            cache=sample.cache_of(arguments),
            seed=arguments.seed,
            batch_size=arguments.batch_size,
        )
        settings = {"bootstrap": arguments.bootstrap, "keep": keep, "verbose": True}
        return evaluation.evaluate(
            diffusion, self.reference, self.features, plan, folder=out, **settings
        )

    def _diffusion(self, arguments):
        """The model with the average and in the dtype of these settings, which a sweep changes."""
        if arguments.average_std != self.average_std:
            models.take_average(self.found.diffusion, arguments.model, arguments.average_std)
            self.average_std, self.sampling = arguments.average_std, {}
        if arguments.dtype not in self.sampling:
            self.sampling = {arguments.dtype: models.in_dtype(self.found, arguments.dtype)}
        return self.sampling[arguments.dtype].diffusion


def _swept(arguments, cells, out):
    """A report for each combination of settings, and a table and a plot of all."""
    if arguments.keep:
        raise ValueError("--keep is for one set of images, without --sweep")
    model, rows = _Model(arguments), []
    for cell in cells:
        name = sweep.name(cell)
        print(name)
        chosen = sweep.changed(arguments, cell)
        begun = time.perf_counter()
        with backend.helping():
            report = model.report(chosen, out / name)
        if backend.helps():
            continue
        rows.append({**cell, **{score.key: score.value for score in report.scores}})
        print(f"{report.scores[0].name} {report.scores[0].value:.4g}, "
              f"{time.perf_counter() - begun:.1f} s")  # fmt: skip
        sweep.write(out, rows)
    if backend.helps():
        return
    print(common.table(sweep.table(rows)))
    drawn = sweep.plot(out / "sweep.png", rows, cells[0], report.scores[0])
    print(f"as a table {out / 'sweep.csv'}" + (f", as a plot {drawn}" if drawn else ""))
