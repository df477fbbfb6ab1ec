"""Make adm.npz: scores of the features in scores.npz by the evaluator of ADM.

The foreign code is evaluations/evaluator.py of openai/guided-diffusion at 22e0df8 (MIT), with
tensorflow 2.21.0 on CPU, scipy 1.15.3 and numpy 2.4.6. FOLDER holds a copy of it, outside of this
repository. Command:

    python tests/goldens/make_adm.py FOLDER

All but Inception itself runs as it stands: the statistics and their distance, the Inception score
of softmax over a matrix, which is the unit matrix here, and the manifolds of precision and recall.
"""

import importlib.util
import pathlib
import sys
import types

import numpy as np
import tensorflow.compat.v1 as tf

HERE = pathlib.Path(__file__).parent


def evaluator_of(folder):
    """The foreign module, without the package that it downloads Inception with."""
    sys.modules.setdefault("requests", types.ModuleType("requests"))
    spec = importlib.util.spec_from_file_location("evaluator", pathlib.Path(folder, "evaluator.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def without_inception(module, session, classes):
    """An `Evaluator` whose softmax is of the features themselves."""
    evaluator = module.Evaluator.__new__(module.Evaluator)
    evaluator.sess, evaluator.softmax_batch_size = session, 512
    evaluator.manifold_estimator = module.ManifoldEstimator(session)
    with session.graph.as_default():
        evaluator.softmax_input = tf.placeholder(tf.float32, shape=[None, classes])
        evaluator.softmax = tf.nn.softmax(evaluator.softmax_input)
    return evaluator


def main():
    """Score the features and write the numbers."""
    tf.disable_eager_execution()
    module = evaluator_of(sys.argv[1])
    with np.load(HERE / "scores.npz") as found:
        real, generated, logits = (found[name] for name in ("real", "generated", "logits"))
    evaluator = without_inception(module, tf.Session(), logits.shape[1])
    statistics = [evaluator.compute_statistics(x) for x in (generated, real)]
    # Too large for float16, in which it measures distances where it can, they are float32's.
    large = [1000 * x.astype("float32") for x in (real, generated)]
    scores = {
        "frechet": statistics[0].frechet_distance(statistics[1]),
        "inception": evaluator.compute_inception_score(logits, split_size=19),
        "precision_recall": evaluator.compute_prec_recall(*large),
        "precision_recall_half": evaluator.compute_prec_recall(real, generated),
    }
    for name, value in scores.items():
        print(name, value)
    np.savez_compressed(HERE / "adm.npz", **scores)


if __name__ == "__main__":
    main()
