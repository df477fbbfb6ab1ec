"""Compare `RespacedGrid` with the published program, on 13 000 combinations of sections.

python scripts/compare_respacing.py PATH/TO/facebookresearch/DiT
"""

import ast
import itertools
import pathlib
import sys

from keras_dit import schedules

THREE = (1, 2, 3, 5, 8, 10, 15, 20, 25, 30, 33)


def published(folder):
    """Its function space_timesteps, without the imports beside it."""
    text = (pathlib.Path(folder) / "diffusion" / "respace.py").read_text()
    parts = [p for p in ast.parse(text).body if getattr(p, "name", "") == "space_timesteps"]
    names = {}
    exec(compile(ast.Module(parts, []), "respace.py", "exec"), names)
    return names["space_timesteps"]


def main(folder):
    space_timesteps, count, different = published(folder), 0, 0
    for size in (100, 300, 1000):
        schedule = schedules.LinearBeta(steps=size)
        ones, pairs = ((n,) for n in range(1, size + 1)), itertools.product(range(1, 45), repeat=2)
        threes = itertools.product(THREE, repeat=3)
        fours = itertools.product((1, 7, 10, 19, 25), repeat=4)
        for sections in itertools.chain(ones, pairs, threes, fours):
            grid = schedules.RespacedGrid(",".join(map(str, sections)))
            ours = [round(t * size) - 1 for t in grid(schedule, sum(sections))[:-1]]
            different += sorted(ours) != sorted(space_timesteps(size, list(sections)))
            count += 1
    print(f"{different} of {count} combinations differ")


if __name__ == "__main__":
    main(sys.argv[1])
