"""Write keras_dit/data/imagenet.txt, the names of ImageNet's classes, from torchvision's list.

    python scripts/make_imagenet_names.py        needs torchvision (BSD 3-Clause)

A line for each class, in the order of ILSVRC 2012, which is that of the labels of published DiTs.
"""

import ast
import importlib.util
import pathlib

TARGET = pathlib.Path(__file__).parent.parent / "keras_dit" / "data" / "imagenet.txt"


def main():
    package = pathlib.Path(importlib.util.find_spec("torchvision").origin).parent
    tree = ast.parse((package / "models" / "_meta.py").read_text())
    found = [node for node in tree.body if isinstance(node, ast.Assign)]
    (names,) = [n.value for n in found if n.targets[0].id == "_IMAGENET_CATEGORIES"]
    names = ast.literal_eval(names)
    assert len({*names}) == 1000, "every class has a name of its own"
    TARGET.write_text("\n".join(names) + "\n", encoding="utf-8")
    print(f"{TARGET.name}: {len(names)} names, {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
