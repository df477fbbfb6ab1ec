# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Diffusion Transformers from the parts to the images
#
# A Diffusion Transformer (DiT) is a transformer that looks at a noisy image and says what is
# under the noise. Trained on images and asked again and again, from pure noise on, it makes new
# ones. This program builds one, trains it on handwritten digits, steers it, and measures it:
#
# 1. dependencies
# 2. components: patches, the adaLN-Zero block, what the network is told of time and class
# 3. the published sizes S, B and L
# 4. conditional generation with classifier-free guidance
# 5. visualisation: a grid, and how a digit comes out of the noise
# 6. throughput of the sizes
# 7. summary
#
# As a script: `python examples/dit_demo.py`, about five minutes on two CPU cores. Images go to
# `runs/dit_demo`.

# %% [markdown]
# ## 1. Dependencies
#
# `pip install -e ".[jax,notebook]"`, or `torch` or `tensorflow` in place of `jax`. Keras asks once,
# when it is imported, which of them to use: so that is said before. Nothing below knows which it
# is. `DIT_DEMO_QUICK=1` makes everything tiny, to see that it runs.

# %%
import inspect
import os
import pathlib
import statistics
import time

os.environ.setdefault("KERAS_BACKEND", "jax")  # or "torch", "tensorflow"

import keras
import matplotlib.pyplot as plt
import numpy as np

import keras_dit

QUICK = bool(os.environ.get("DIT_DEMO_QUICK"))
OUT = pathlib.Path("runs/dit_demo")
OUT.mkdir(parents=True, exist_ok=True)
keras.utils.set_random_seed(0)
print(f"keras_dit {keras_dit.__version__}, Keras {keras.__version__}, {keras.backend.backend()}")

# %% [markdown]
# ## 2. Components
#
# **Patches.** The transformer works on a sequence of vectors, its tokens. A image becomes one by
# being cut into squares of p x p pixels, each mapped linearly to a vector. Halving p makes four
# times as many tokens: the most effective way to spend arithmetic on quality in the DiT paper.

# %%
images, labels = keras_dit.datasets.load_digits()
print(f"digits: {images.shape}, from {images.min():g} to {images.max():g}; labels {labels.shape}")

embed = keras_dit.PatchEmbedding(patch_size=2, hidden_size=64)
tokens = embed(images[:4])
print(f"images {images[:4].shape} -> tokens {tuple(tokens.shape)}")

# Cutting alone loses nothing: the patches, laid side by side again, are the image.
patches = keras_dit.layers.patchify(images[:4], patch_size=2)
again = keras_dit.layers.unpatchify(patches, height=8, width=8, patch_size=2)
print("cut and joined, the same:", np.array_equal(keras.ops.convert_to_numpy(again), images[:4]))

# %% [markdown]
# **What the network is told.** How much noise there is depends on the time t, so the network has
# to know it; and it should draw what it is asked for, so it is given a class. Both become vectors
# of the tokens' width, and their sum c is the *conditioning*. The table of classes has one row
# more than there are classes: the *null class*, "any digit". A tenth of the labels is replaced by
# it in training. Section 4 needs that.

# %%
time_embedding = keras_dit.conditions.TimestepEmbedding(hidden_size=64)
label_embedding = keras_dit.conditions.Label(num_classes=10, hidden_size=64)
timesteps = np.array([0.0, 10.0, 500.0, 999.0], "float32")
conditioning = time_embedding(timesteps) + label_embedding(labels[:4]).vector
print(f"times {timesteps.shape} and labels {labels[:4].shape} -> {tuple(conditioning.shape)}")
print(f"rows of the label table: {label_embedding.table.shape[0]}; the null class is number 10")

# %% [markdown]
# **adaLN-Zero.** A block is attention and an MLP, each behind a layer norm and each added to what
# came in. The conditioning enters by *modulating* the norms: a linear map of c gives, for each of
# the two, a shift and a scale of the normalised tokens and a gate on the result,
#
# $$x \leftarrow x + \mathrm{gate}(c) \cdot F\big(\mathrm{norm}(x)\,(1 + \mathrm{scale}(c))
# + \mathrm{shift}(c)\big).$$
#
# That linear map starts at zero. So the gates are zero, every block begins as the identity
# whatever its depth, and training opens the gates as far as they help. The last layer starts at
# zero likewise: a new network's output is exactly 0.

# %%
print(inspect.getsource(keras_dit.AdaLNBlock.call))
print(inspect.getsource(keras_dit.layers.SelfAttention._qkv))

# %% [markdown]
# That is all there is to it. The queries, keys and values of the attention go into
# softmax(q kᵀ / √d) v, for each head. A new block changes nothing:

# %%
block = keras_dit.AdaLNBlock(num_heads=4)
out = block(tokens, conditioning)
difference = keras.ops.convert_to_numpy(keras.ops.max(keras.ops.abs(out - tokens)))
print(f"a new block changes its tokens by {difference:g}")

SIZE = {"hidden_size": 32, "depth": 1} if QUICK else {"hidden_size": 128, "depth": 4}
network = keras_dit.DiTModel(
    input_shape=(8, 8, 1), patch_size=2, num_heads=4, num_classes=10, **SIZE
)
output = keras.ops.convert_to_numpy(network(images[:4], timesteps, labels[:4]))
print(f"a new network's output: {output.shape}, largest value {np.abs(output).max():g}")
print(f"its parameters: {network.count_params():,}")

# %% [markdown]
# ## 3. Sizes S, B and L
#
# The paper's sizes differ in width and depth. Their networks have about 33, 130 and 457 million
# parameters; a third of them is in the maps from the conditioning to shifts, scales and gates,
# which each block has for itself. `keras-dit info` prints all twelve with their cost.

# %%
SIZES = ["dit_s_8"] if QUICK else ["dit_s_4", "dit_b_4", "dit_l_4"]
BATCH = 8
noisy = np.random.default_rng(0).standard_normal((1, 32, 32, 3)).astype("float32")
networks = {}
for name in SIZES:
    networks[name] = keras_dit.DiTModel.from_preset(name, input_shape=(32, 32, 3), num_classes=10)
    output = networks[name](noisy, np.array([500.0]), np.array([3]))
    modulation = sum(layer.modulation.count_params() for layer in networks[name].blocks)
    share = modulation / networks[name].count_params()
    print(
        f"{name}: (1, 32, 32, 3) -> {tuple(output.shape)}, "
        f"{networks[name].count_params():>11,} parameters, {share:.0%} of them modulation"
    )

# %% [markdown]
# ## 4. Conditional generation with classifier-free guidance
#
# **Training.** A image $x_0$ is mixed with Gaussian noise $\epsilon$,
#
# $$x_t = \alpha_t x_0 + \sigma_t \epsilon,$$
#
# from t = 0, the image, to t = 1, noise. The *schedule* says how $\alpha$ falls and $\sigma$
# grows. This is the *forward process*: a table of numbers, nothing is learned in it.

# %%
schedule = keras_dit.schedules.CosineBeta()
noise = np.random.default_rng(0).standard_normal((1, 8, 8, 1)).astype("float32")
figure, axes = plt.subplots(1, 8, figsize=(10, 1.6))
for axis, t in zip(axes, np.linspace(0, 1, 8)):
    rates = schedule(np.float32(t))
    alpha, sigma = float(rates.alpha), float(rates.sigma)
    axis.imshow(alpha * images[3, ..., 0] + sigma * noise[0, ..., 0], cmap="gray", vmin=-1, vmax=1)
    axis.set_title(f"t = {t:.2f}\n{alpha:.2f} x0 + {sigma:.2f} noise", fontsize=7)
    axis.set_axis_off()
figure.savefig(OUT / "forward.png")

# %% [markdown]
# The network sees $x_t$, t and the class, and learns by least squares. The best answer to
# least squares is a mean, so whatever it is trained to give (here $v = \alpha_t \epsilon -
# \sigma_t x_0$, which is well behaved at both ends), what it knows is
#
# $$E[x_0 \mid x_t, c],$$
#
# the mean of all images that might be under this noise. Solvers and guidance need only that.

# %%
EPOCHS = 1 if QUICK else 60
diffusion = keras_dit.Diffusion(
    network,
    schedule=schedule,
    prediction=keras_dit.predictions.V(),
)
batches = keras_dit.datasets.ImageBatches(images, labels, batch_size=128)
steps = EPOCHS * len(batches)
warm_up = steps // 20 + 1
rate = keras.optimizers.schedules.CosineDecay(0.0, steps, warmup_target=2e-3, warmup_steps=warm_up)
diffusion.compile(keras.optimizers.AdamW(rate, weight_decay=0.0))


def report(epoch, logs):
    if (epoch + 1) % 10 == 0 or epoch + 1 == EPOCHS:
        print(f"epoch {epoch + 1:3d}: loss {logs['loss']:.4f}")


start = time.perf_counter()
history = diffusion.fit(
    batches,
    epochs=EPOCHS,
    verbose=0,
    callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=report)],
)
training_seconds = time.perf_counter() - start
print(f"{steps} steps of {batches.batch_size} digits in {training_seconds:.0f} s")

# %% [markdown]
# The loss is a mean over all noise levels. It falls steeply, bends, and creeps; digits become good
# while it creeps.

# %%
figure, axis = plt.subplots(figsize=(5, 2.5))
axis.plot(np.arange(1, EPOCHS + 1), history.history["loss"])
axis.set(xlabel="epoch", ylabel="loss", yscale="log")
figure.tight_layout()
figure.savefig(OUT / "loss.png")

# %% [markdown]
# **Guidance.** The same network gives $E[x_0 \mid x_t, c]$ for a class and $E[x_0 \mid x_t]$ for
# the null class. Their difference points to what makes the image look like its class.
# Classifier-free guidance follows it further than the data do:
#
# $$\hat x_0 = E[x_0 \mid x_t] + s \, \big(E[x_0 \mid x_t, c] - E[x_0 \mid x_t]\big).$$
#
# Scale s = 0 forgets the class, s = 1 is the class as it is, and s > 1 exaggerates it: clearer
# images, less unlike each other. Both effects are measured here: the share of digits whose
# nearest real digit has the class that was asked for, and how far digits of one class spread.

# %%
SCALES = [2.0] if QUICK else [0.0, 1.0, 2.0, 4.0]
SAMPLING_STEPS = 3 if QUICK else 30
asked = np.tile(np.arange(10), 2 if QUICK else 20)


def spread(images, classes):
    """The standard deviation of a pixel among the images of one class, on average."""
    return np.mean([images[classes == c].std(axis=0).mean() for c in np.unique(classes)])


print("scale  label agreement  spread / real spread")
guided = {}
for scale in SCALES:
    guided[scale] = diffusion.generate(
        labels=asked,
        steps=SAMPLING_STEPS,
        guidance=keras_dit.guidance.ClassifierFree(scale),
        seed=1,
        batch_size=len(asked),
    )
    agreement = keras_dit.metrics.label_agreement(guided[scale], asked, images, labels)
    ratio = spread(guided[scale], asked) / spread(images, labels)
    print(f"{scale:5g}  {agreement:15.1%}  {ratio:20.2f}")

# %% [markdown]
# ## 5. Visualisation
#
# The first two rows for each scale, a column for each digit asked for. All start from the same
# noise.

# %%
figure, axes = plt.subplots(len(SCALES), 1, figsize=(6, 1.5 * len(SCALES)), squeeze=False)
for axis, scale in zip(axes[:, 0], SCALES):
    axis.imshow(keras_dit.images.grid(guided[scale][:20], columns=10, scale=4), cmap="gray")
    axis.set_title(f"guidance scale {scale:g}")
    axis.set_axis_off()
figure.tight_layout()
figure.savefig(OUT / "guidance.png")

# %% [markdown]
# **How a digit comes out of the noise.** The run visits falling times. At each, the solver (DDIM)
# asks for $E[x_0 \mid x_t, c]$ and goes to the next time as if that were the image: it keeps the
# noise that $x_t$ would then hold, and makes it smaller. Above is $x_t$, below the estimate, here
# without guidance. In much noise the best answer is a mean of many threes, blurred; as t falls
# fewer remain possible, and the last estimate is the image.

# %%
trajectory = []
diffusion.generate(
    labels=[3],
    steps=SAMPLING_STEPS,
    seed=1,
    callback=lambda step, t, x_t, x0: trajectory.append((t, x_t[0], x0[0])),
)
shown = [trajectory[i] for i in np.linspace(0, len(trajectory) - 1, 8).round().astype(int)]

figure, axes = plt.subplots(2, len(shown), figsize=(10, 3))
for column, (t, x_t, x0) in zip(axes.T, shown):
    column[0].set_title(f"t = {t:.2f}")
    for axis, image in zip(column, (x_t, x0)):
        axis.imshow(image[..., 0], cmap="gray", vmin=-1, vmax=1)
        axis.set_xticks([])
        axis.set_yticks([])
axes[0, 0].set_ylabel("$x_t$")
axes[1, 0].set_ylabel("$E[x_0 | x_t, c]$")
figure.tight_layout()
figure.savefig(OUT / "trajectory.png")

# %% [markdown]
# ## 6. Throughput
#
# `generate` compiles its step (JAX and TensorFlow through XLA; torch runs eagerly), so the first
# call is not like the others and is not counted. With `steps=1` a run is one evaluation of the
# network. It returns numpy arrays, hence only when everything has been computed, and the median of
# several calls leaves out what else the machine did. The networks are untrained: their images
# mean nothing, their speed is that of trained ones.

# %%
REPEATS = 2 if QUICK else 5
throughput = {}
for name, sized in networks.items():
    untrained = keras_dit.Diffusion(sized, ema=None)
    seconds = []
    for _ in range(1 + REPEATS):
        start = time.perf_counter()
        untrained.generate(labels=[0] * BATCH, steps=1)
        seconds.append(time.perf_counter() - start)
    throughput[name] = BATCH / statistics.median(seconds[1:])
    print(f"{name}: first call {seconds[0]:.1f} s, then {throughput[name]:.1f} images a second")

# %% [markdown]
# ## 7. Summary

# %%
print(f"trained {network.count_params():,} parameters for {training_seconds:.0f} s")
print(f"digits in {OUT / 'guidance.png'}, from noise to digit in {OUT / 'trajectory.png'}")
for name in SIZES:
    print(f"{name}: one step on 32 x 32 x 3 for {throughput[name]:.1f} images a second")

# %% [markdown]
# What to take along:
#
# - A new block is the identity and a new network gives 0 (adaLN-Zero), so depth does no harm at
#   the start.
# - Whatever the network is trained to give, it knows $E[x_0 \mid x_t, c]$; solvers and guidance
#   are built on that alone and go with each other freely.
# - Guidance needs the null class to be trained, costs a second evaluation, and trades variety for
#   clarity.
#
# **Exercises.**
#
# 1. *Fewer steps.* Make the same digits with `solver=keras_dit.solvers.DPMSolverPP2M()` and with
#    `DDIM()`, in 5, 10 and 50 steps, from the same seed. Which of them reaches the digit of 50
#    steps first? Why does a solver that remembers the step before need fewer?
# 2. *Guide in the middle only.* Put `keras_dit.guidance.Interval(4.0, 0.2, 0.8)` in place of the
#    scale 4 of section 4 and measure agreement and spread again. At which end of the run is the
#    variety lost?
# 3. *Another process.* Train with `schedule=keras_dit.schedules.RectifiedFlow()` and
#    `prediction=keras_dit.predictions.FlowVelocity()`. Draw the forward process again. Why can the
#    losses of the two not be compared, and what can?
#
# From here: `keras-dit demo` trains longer and scores its digits; `keras-dit train --data FOLDER`
# does it with images of your own.
