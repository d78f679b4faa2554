"""VAE: an autoencoder with a random code z, which decodes codes sampled from a prior to new images.

Kingma and Welling, "Auto-Encoding Variational Bayes", ICLR 2014. The tighter bound L_k is
from Burda, Grosse and Salakhutdinov, "Importance Weighted Autoencoders", ICLR 2016. The weight beta
is from Higgins et al., "beta-VAE", ICLR 2017. The conditional model is from Sohn, Lee and Yan,
"Learning Structured Output Representation using Deep Conditional Generative Models", 2015. The
mixture for sampling is from Ghosh et al., "From Variational to Deterministic Autoencoders", ICLR
2020.

    z ~ p(z) = N(0, I),  x ~ p(x|z);    q(z|x) = N(mu(x), diag sigma^2(x))                       (1)
    z = mu + sigma * eps,  eps ~ N(0, I)                                                         (2)
    ELBO = E_q[log p(x|z)] - beta * KL(q(z|x) || p(z))  <=  log p(x)  for beta = 1               (3)
    KL = 1/2 sum_j (mu_j^2 + sigma_j^2 - 1 - log sigma_j^2)                                      (4)
    L_k = E[log 1/k sum_i w_i],  w_i = p(x|z_i) p(z_i) / q(z_i|x)                                (5)
    p(y|x) = p(x|y) p(y) / sum_y' p(x|y') p(y')                                                  (6)
    z ~ sum_c a_c N(m_c, diag s_c^2), fitted to the means mu(x) of training images               (7)

Symbols: x `x` in [0, 1] · z `z` (k, N, D) · mu, log sigma^2 `mean`, `log_var` (N, D) · log w
`log_weight` (k, N) · y `label` · a, m, s^2 `weights` (K,), `mean`, `variance` (K, D) of
`core/code_mixture.py`. All terms are summed over pixels or latent dimensions and averaged over the
batch, in nats per image.

The decoder defines p(x|z), a density over images; the encoder q(z|x) approximates the posterior.
The encoder predicts log sigma^2, because its exponential is always positive and smooth, unlike a
clamped variance. KL bounds the information in nats that a code z carries about its image. KL is
not symmetric: KL(q||p) penalises codes in regions of low prior density, but does not penalise
regions of high prior density without codes. With k = 1, L_k equals the ELBO in expectation; with
larger k, L_k approaches log p(x).

The aggregated posterior is the distribution of the codes of all training images, and differs from
the prior. A sample from N(0, I) may lie far from all of these codes, and then decodes to no
recognisable image. Eq. 7 is fitted to the aggregated posterior ("ex-post density estimation", Ghosh
et al. 2020, section 4). It changes samples only, neither the training nor the likelihoods.

Some books average the squared or logistic loss over the P pixel values and multiply the *mean* by a
weight R. This is equivalent to beta = P / R for Bernoulli pixels and beta = P / (2 R) for Gaussian
pixels with sigma = 1.

Departures from the papers and from the released code of the importance weighted autoencoder:

- Optimizer (2014): Adagrad in the paper; Adam here, and Muon (`optim/muon.py`) in the reproduction
  `vae-mnist-nll-fast`.
- Initial weights of the "mlp" network (2014): N(0, .01) in the paper; uniform (Glorot and Bengio
  2010) here, as in 2016. The output bias starts at the mean image, as in the code of 2016.
- Adam (2016): beta1 0.9 and epsilon 1e-4 in the paper and here; here gradients are averaged over
  the batch. The released code has beta1 0.99 and initial second moments of 1 (here 0). It has
  epsilon 1e-4 for gradients *summed* over 20 images, equivalent to 5e-6 for averaged gradients.
- Learning rate in stage i of training (2016): 0.001 * 10^(-i/7) in the paper and here. The
  released code rounds the values of 10^(-i/7) to 1, 0.72, 0.52, ... 0.1.
- Order of the images (2016): fixed in the released code; reshuffled in each epoch here.
- Training images (2016): 59,600 for training and 400 for validation, in the released code and here.
- Encoder (2016): predicts log sigma in the released code; log sigma^2 in the paper and here.
- Mixture (2020): diagonal covariance matrices with regularised variances, and up to 100 components
  in the recipes; 10 components with full covariance matrices in the paper.
- Conditional prior (2015): a learned p(z|y) in the paper; p(z) here. The labels are one-hot inputs
  of the encoder and the decoder.
"""

import math
from math import prod
from typing import Any, Literal

import torch
from jsonargparse.typing import (
    NonNegativeFloat,
    NonNegativeInt,
    OpenUnitInterval,
    PositiveFloat,
    PositiveInt,
)
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR

from common.errors import UserError
from lightning_modules.core import latent_space as latent
from lightning_modules.core.code_mixture import CodeSampler
from lightning_modules.core.conditioning import classes_used, labels_of
from lightning_modules.core.modes import sampling
from lightning_modules.core.networks import ExportedNetwork, Method
from lightning_modules.nn.encoders import (
    ConvDecoder,
    ConvEncoder,
    MLPDecoder,
    MLPEncoder,
    output_bias,
)
from lightning_modules.optim.muon import Muon
from lightning_modules.optim.schedules import cosine
from metrics.likelihood import (
    ActiveUnits,
    ImportanceSampledNLL,
    LabelAccuracy,
    SquaredError,
    bits_per_dim,
)

# The mean image, whose logits the output biases start from, is clamped to [1e-3, 1 - 1e-3], as in
# the code released by Burda et al.
BIAS_CLIP = 1e-3
ADAM_RATE = 3e-3  # with `optimizer: muon`, learning rate of the parameters that Adam updates


def bernoulli_log_likelihood(logits: Tensor, x: Tensor) -> Tensor:
    """Return the log-likelihood in nats of x in [0, 1] under Bernoulli pixels with given logits.

    The result has shape (...) for inputs (..., C, H, W), because it is summed over pixels.
    """
    nll = F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none")
    return -nll.sum((-3, -2, -1))


def gaussian_log_likelihood(logits: Tensor, x: Tensor, sigma: float) -> Tensor:
    """Return the Gaussian log-likelihood log N(x; sigmoid(logits), sigma^2) in nats of x in [0, 1].

    The result has shape (...) for inputs (..., C, H, W), because it is summed over pixels.
    """
    error = (logits.sigmoid() - x).square().sum((-3, -2, -1))
    dims = prod(x.shape[-3:])
    return -error / (2 * sigma**2) - dims * (math.log(sigma) + 0.5 * math.log(2 * math.pi))


def standard_normal_kl(mean: Tensor, log_var: Tensor) -> Tensor:
    """Return KL(N(mean, exp(log_var)) || N(0, I)) in nats: (N, D) -> (N,)."""
    return 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum(-1)  # Eq. 4


def normal_log_density(z: Tensor, mean: Tensor | float, log_var: Tensor | float) -> Tensor:
    """Return the log density log N(z; mean, exp(log_var)) in nats, summed over the last axis."""
    log_var = torch.as_tensor(log_var, device=z.device)
    return -0.5 * (math.log(2 * math.pi) + log_var + (z - mean).square() / log_var.exp()).sum(-1)


def importance_bound(log_weight: Tensor) -> Tensor:
    """Return the bound L_k (N,) of Eq. 5 in nats, from log weights log w (k, N)."""
    return log_weight.logsumexp(0) - math.log(len(log_weight))


def stage_learning_rate(epoch: int) -> float:
    """Return the learning rate factor 10^(-i/7), where i is the training stage of an epoch.

    Stages i = 0 .. 7 last 3^i epochs each, so the stages i = 1, 2, 3, 4, ... start at epochs 1, 4,
    13, 40, ... (Burda et al. 2016, section 5.1).
    """
    stage = 0
    while stage < 7 and epoch >= (3 ** (stage + 1) - 1) // 2:
        stage += 1
    return 10 ** (-stage / 7)


CLASSIFY_SAMPLES = 10  # samples k of z in L_k, which estimates log p(x|y) in Eq. 6


class VAE(CodeSampler):
    """Variational autoencoder, optionally importance-weighted or conditional.

    Args:
        Data:
        image_shape: Shape (C, H, W) of an image, supplied by the data module.
        num_classes: Number of classes, supplied by the data module; used only if `conditional`.
        Network:
        network: Architecture: fully connected ("mlp") or convolutional ("conv").
        hidden: Number of units ("mlp") or channels ("conv") in each hidden layer of the encoder.
            The decoder has the same layers in reverse order.
        activation: Activation of the hidden layers of the "mlp" network.
        latent_dim: Size D of the latent vector z.
        Objective:
        likelihood: Distribution p(x|z) of pixels: "bernoulli", exact for binary images only, or
            "gaussian", for grey and colour images.
        sigma: Standard deviation of each pixel under the "gaussian" likelihood, on a pixel scale of
            [0, 1].
        beta: Weight of the KL term; must be 1 if `bound` is "iwae".
        beta_warmup_steps: Number of updates over which the weight of the KL term rises linearly
            from 0 to `beta`. With 0, the weight is constant; must be 0 if `bound` is "iwae".
        bound: Training objective: "elbo" is the evidence lower bound (Eq. 3 in `vae.py`), "iwae"
            the importance-weighted bound (Eq. 5).
        k: Number of samples of z per image in training.
        conditional: Whether to condition the model on the class labels y of the data: p(x|y)
            instead of p(x).
        Optimizer:
        optimizer: Type of optimizer: Adam ("adam"), or Muon (`optim/muon.py`) for the matrices and
            kernels of all layers but the first, which reads the image, and the last, which predicts
            it ("muon"). With "muon", Adam with learning rate 3e-3 updates all other parameters.
        learning_rate: Initial learning rate. With "muon", only that of the parameters that Muon
            updates.
        adam_epsilon: Epsilon of Adam, added to the square root of the second moment; unused with
            "muon".
        schedule: Learning rate schedule: "constant", "cosine" (decay to 0 along half a cosine), or
            "stages" (the eight stages of Burda et al. 2016, section 5.1).
        ema_decay: Decay of the moving average of the weights, in (0, 1), with which the VAE is
            evaluated and sampled. None disables the average.
        Sampling:
        mixture_components: Maximum number of Gaussians in the mixture from which codes are sampled
            (Eq. 7 in `vae.py`). The mixture is fitted to the codes of at most 5,000 training
            images, of all classes together, for each validation and checkpoint. It has at most one
            Gaussian per 30 images. With 0, codes are sampled from N(0, I). With `ema_decay`, it is
            fitted to codes of the averaged weights, also for samples of the trained weights.
        Test:
        test_samples: Number of samples of z per image that estimate the test NLL (k in Eq. 5 of
            `vae.py`).

    Raises:
        UserError: If `bound` is "iwae" and `beta` is not 1 or has a warm-up, if `conditional` is
            true and the data has no labels, or if a side of the images cannot be halved once per
            "conv" layer.
    """

    has_latent_space = True
    monitor = ("val/loss", "min")
    ema_modules = ("encoder", "decoder")

    def __init__(
        self,
        image_shape: list[int],
        num_classes: int | None = None,
        network: Literal["mlp", "conv"] = "mlp",
        hidden: list[PositiveInt] = [512],  # noqa: B006  # read only
        activation: Literal["tanh", "relu"] = "tanh",
        latent_dim: PositiveInt = 16,
        likelihood: Literal["bernoulli", "gaussian"] = "bernoulli",
        sigma: PositiveFloat = 1.0,
        beta: NonNegativeFloat = 1.0,
        beta_warmup_steps: NonNegativeInt = 0,
        bound: Literal["elbo", "iwae"] = "elbo",
        k: PositiveInt = 1,
        conditional: bool = False,
        optimizer: Literal["adam", "muon"] = "adam",
        learning_rate: PositiveFloat = 1e-3,
        adam_epsilon: PositiveFloat = 1e-8,
        schedule: Literal["constant", "cosine", "stages"] = "constant",
        ema_decay: OpenUnitInterval | None = None,
        mixture_components: NonNegativeInt = 0,
        test_samples: PositiveInt = 5000,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if bound == "iwae" and beta != 1:
            raise UserError(
                f"model.beta must be 1 for model.bound iwae (got model.beta={beta}): "
                "set model.beta to 1, or model.bound to elbo"
            )
        if bound == "iwae" and beta_warmup_steps:
            raise UserError(
                "model.bound iwae has no KL term: set model.beta_warmup_steps to 0 (got "
                f"{beta_warmup_steps}), or model.bound to elbo"
            )
        self.latent_dim = latent_dim
        self.classes = classes_used(num_classes, conditional)
        channels, *size = image_shape
        self.encoder: nn.Module
        self.decoder: nn.Module
        if network == "conv":
            self.encoder = ConvEncoder(image_shape, hidden, 2 * latent_dim, self.classes)
            self.decoder = ConvDecoder(image_shape, hidden, latent_dim + self.classes)
        else:
            inputs = (channels + self.classes) * prod(size)
            self.encoder = MLPEncoder(inputs, hidden, 2 * latent_dim, activation)
            self.decoder = MLPDecoder(latent_dim + self.classes, hidden, image_shape, activation)
        nn.init.zeros_(output_bias(self.decoder))  # `on_train_start` sets the bias from data
        self.init_mixture(mixture_components)
        self.test_nll = ImportanceSampledNLL(test_samples)
        self.active_units = ActiveUnits(latent_dim)
        self.squared_error = SquaredError()
        self.accuracy = LabelAccuracy(f"bayes|k={CLASSIFY_SAMPLES}")
        if ema_decay is not None:
            self.init_ema()

    def posterior(self, image: Tensor, label: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return mean and log variance (N, D) of q(z|x) or q(z|x, y), for images in [-1, 1]."""
        if self.classes:
            one_hot = self._one_hot(label, len(image))[:, :, None, None]
            image = torch.cat([image, one_hot.expand(-1, -1, *image.shape[-2:])], 1)
        mean, log_var = self.encoder(image).float().chunk(2, 1)  # bf16 is too coarse for KL
        return mean, log_var

    def sample_posterior(self, mean: Tensor, log_var: Tensor, k: int) -> Tensor:
        """Sample z (k, N, D) from N(mean, exp(log_var)) (Eq. 2)."""
        return mean + (0.5 * log_var).exp() * torch.randn(k, *mean.shape, device=mean.device)

    def logits(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Decode z (..., N, D) to pixel logits (..., N, C, H, W)."""
        if self.classes:
            z = torch.cat([z, self._one_hot(label, z.shape[-2]).expand(*z.shape[:-1], -1)], -1)
        return self.decoder(z.flatten(0, -2)).unflatten(0, z.shape[:-1])

    def _one_hot(self, label: Tensor | None, count: int) -> Tensor:
        if label is None:  # unknown label: equal weights for all classes
            return torch.full((count, self.classes), 1 / self.classes, device=self.device)
        return F.one_hot(label, self.classes).float()

    def reconstruction_log_likelihood(
        self, image: Tensor, z: Tensor, label: Tensor | None
    ) -> Tensor:
        """Return log p(x|z) (k, N) in nats, for images (N, C, H, W) in [-1, 1] and z (k, N, D)."""
        logits, x = self.logits(z, label), to_unit_interval(image)
        if self.hparams.likelihood == "gaussian":
            return gaussian_log_likelihood(logits, x, self.hparams.sigma)
        return bernoulli_log_likelihood(logits, x)

    def log_weight(self, image: Tensor, k: int, label: Tensor | None = None) -> Tensor:
        """Return log importance weights log w (k, N) of k posterior samples per image (Eq. 5)."""
        mean, log_var = self.posterior(image, label)
        z = self.sample_posterior(mean, log_var, k)
        log_likelihood = self.reconstruction_log_likelihood(image, z, label)
        log_joint = log_likelihood + normal_log_density(z, 0.0, 0.0)
        return log_joint - normal_log_density(z, mean, log_var)

    def objective(self, batch: dict[str, Any], beta: float) -> dict[str, Tensor]:
        """Return the loss and, for the ELBO, its terms, in nats per image (mean over the batch)."""
        image, label = batch["image"], batch.get("label")
        if self.hparams.bound == "iwae":
            return {"loss": -importance_bound(self.log_weight(image, self.hparams.k, label)).mean()}
        mean, log_var = self.posterior(image, label)
        z = self.sample_posterior(mean, log_var, self.hparams.k)
        reconstruction = -self.reconstruction_log_likelihood(image, z, label).mean()
        kl = standard_normal_kl(mean, log_var).mean()
        loss = reconstruction + beta * kl  # Eq. 3
        return {"loss": loss, "reconstruction": reconstruction, "kl": kl}

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        beta, steps = self.hparams.beta, self.hparams.beta_warmup_steps
        if steps:
            beta = beta * min(1.0, self.trainer.global_step / steps)
        return self.objective(batch, beta)

    @torch.no_grad()
    def on_train_start(self) -> None:
        """Set the output bias of a new decoder to the logits of the mean training image.

        The released code of Burda et al. does the same.
        """
        bias = output_bias(self.decoder)
        if self.trainer.global_step == 0 and not bias.any():  # --init_from loads a bias
            mean = self.trainer.datamodule.mean_image()  # type: ignore[attr-defined]
            mean = mean.flatten() if bias.numel() == mean.numel() else mean.mean((1, 2))
            bias.copy_(torch.logit(mean, eps=BIAS_CLIP))

    def configure_optimizers(self) -> Any:
        h = self.hparams
        optimizer: torch.optim.Optimizer
        if h.optimizer == "muon":
            parameters = [*self.encoder.parameters(), *self.decoder.parameters()]
            inner = [p for p in parameters if p.dim() >= 2][1:-1]
            chosen = set(inner)
            others = [p for p in parameters if p not in chosen]
            groups = [
                {"params": inner, "orthogonal": True, "lr": h.learning_rate},
                {"params": others},
            ]
            optimizer = Muon(groups, ADAM_RATE, betas=(0.9, 0.999))
        else:
            rate, epsilon = h.learning_rate, h.adam_epsilon
            optimizer = torch.optim.Adam(self.parameters(), rate, eps=epsilon, fused=True)
        if h.schedule == "constant":
            return optimizer
        if h.schedule == "stages":
            return [optimizer], [LambdaLR(optimizer, stage_learning_rate)]
        return [optimizer], [cosine(optimizer, self.total_updates)]

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        with self.averaged_weights():
            self.measure_bound(batch)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        with self.averaged_weights():
            self.measure_likelihood(batch)

    def measure_bound(self, batch: dict[str, Any]) -> None:
        """Log the objective, its terms and the active units of a validation batch."""
        losses = self.objective(batch, self.hparams.beta)
        values = {f"val/{name}": value for name, value in losses.items()}
        self.log_dict(values, batch_size=len(batch["image"]), sync_dist=True)
        self.active_units.update(self.posterior(batch["image"], batch.get("label"))[0])
        self.log_metric("val/active_units", self.active_units)

    def measure_likelihood(self, batch: dict[str, Any]) -> None:
        """Log the test metrics of a batch."""
        image, label = batch["image"], batch.get("label")
        self.test_nll.update(lambda k: self.log_weight(image, k, label))
        mean, _ = self.posterior(image, label)
        self.active_units.update(mean)
        self.squared_error.update(self.logits(mean, label).sigmoid(), to_unit_interval(image))
        self.log_metric("test/nll", self.test_nll)
        self.log_metric("test/active_units", self.active_units)
        self.log_metric("test/sse", self.squared_error)
        if self.classes:
            self.accuracy.update(self.classify(image), batch["label"])
            self.log_metric("test/accuracy", self.accuracy)

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        h = self.hparams
        levels = 256 if h.likelihood == "gaussian" else 1  # 256 converts a density to a probability
        nll = self.test_nll.compute()
        self.log("test/bpd", bits_per_dim(nll, prod(h.image_shape), levels))
        given = "|given=label" if self.classes else ""
        settings = f"k={h.test_samples}|pixels={h.likelihood}{given}"
        self.signatures["test/nll"] = f"nll[{settings}]"
        # With Bernoulli pixels, bits per dimension are a negative log-probability for binary images
        # only. For grey or colour images, they are a cross-entropy without a density.
        self.signatures["test/bpd"] = f"bpd[{settings}]"

    @torch.no_grad()
    def classify(self, image: Tensor, k: int = CLASSIFY_SAMPLES) -> Tensor:
        """Return the log-posterior log p(y|x) of all classes, (N, classes), for images in [-1, 1].

        p(y|x) is computed by Bayes' rule (Eq. 6) with uniform p(y), where log p(x|y) is estimated
        with the bound L_k from `k` samples of z.
        """
        scores = [
            importance_bound(self.log_weight(image, k, label.expand(len(image))))
            for label in torch.arange(self.classes, device=image.device)
        ]
        return torch.stack(scores, 1).log_softmax(1)

    def encode(self, image: Tensor, label: Tensor | None = None) -> Tensor:
        """Encode images (N, C, H, W) in [-1, 1] as posterior means z (N, D)."""
        return self.posterior(image, label)[0]

    def decode(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Decode z (N, D) to the mean images (N, C, H, W) of p(x|z), in [-1, 1]."""
        return self.logits(z, label).sigmoid() * 2 - 1

    embed = encode

    def networks(self) -> dict[str, ExportedNetwork]:
        image = torch.zeros(2, *self.hparams.image_shape)
        label = {"label": torch.arange(2)} if self.classes else {}
        z = torch.zeros(2, self.latent_dim)
        encode, decode = Method(self.encoder, self.encode), Method(self.decoder, self.decode)
        return {
            "encoder": ExportedNetwork(encode, {"image": image, **label}, ("z",)),
            "decoder": ExportedNetwork(decode, {"z": z, **label}, ("image",)),
        }

    def reconstruct(self, image: Tensor, label: Tensor | None = None) -> Tensor:
        """Encode images (N, C, H, W) in [-1, 1] and decode the posterior means to images."""
        return self.decode(self.encode(image, label), label)

    @sampling
    def sample(
        self,
        seeds: list[int],
        *,
        batch: dict[str, Any] | None = None,
        mode: Literal["prior", "interpolate", "traverse", "reconstruct", "attribute"] = "prior",
        label: int | None = None,
        attribute: str | None = None,
        steps: PositiveInt = 9,
        temperature: NonNegativeFloat = 1.0,
        mixture: bool = True,
    ) -> Tensor:
        """Sample images, or strips of images that show the latent space.

        Args:
            seeds: One seed per image or strip (row). The noise of row i depends on `seeds[i]`
                alone.
            batch: Dictionary for "reconstruct" and "attribute" with unseen images (`image`), one
                per seed. For "attribute", it also has training images with the attribute
                (`positive`) and training images without it (`negative`).
            mode: Sampling mode. "prior" decodes samples of z. "interpolate" decodes points on a
                line between two samples of z. "traverse" varies coordinate `seed % latent_dim` of
                z; the other coordinates are 0. "reconstruct" pairs unseen images with their
                reconstructions. "attribute" shifts the z of unseen images along the direction
                from images without the attribute to images with it, scaled by -4 to 4.
            label: Class of all images, for conditional models. With None, the class of row i is
                `seeds[i] % classes`.
            attribute: Name of the attribute for mode "attribute", such as a word that occurs in
                image names.
            steps: Number of images in a strip; "reconstruct" always has 2.
            temperature: Factor by which the noise is multiplied in "prior" and "interpolate".
                Values below 1 make samples less diverse. With a mixture, it does not change the
                choice of the component.
            mixture: Whether z is sampled in "prior" and "interpolate" from the model's mixture of
                Gaussians. Otherwise, or if the model has no mixture, z is sampled from N(0, I).

        Returns:
            Images (N, C, H, W) for "prior", else strips (N, S, C, H, W), in [-1, 1]. S is 2 for
            "reconstruct" and `steps` otherwise.

        Raises:
            UserError: If the model has no class `label`, if `label` is given for a mode that uses
                images of the data, or if the mode lacks `batch` or `attribute`.
        """
        labels = labels_of(seeds, label, self.classes, self.device)
        if label is not None and mode in ("reconstruct", "attribute"):
            raise UserError(
                f"--label {label} cannot be used with --mode {mode}, whose images come from "
                "the data: leave it out"
            )
        given = [] if labels is None else [labels]
        if mode == "prior":
            z = self.sample_codes(seeds, temperature, mixture)[:, 0]  # (N, D)
            return self.decode(z, *given)  # Eq. 1
        if mode == "interpolate":
            start, end = self.sample_codes(seeds, temperature, mixture).unbind(1)
            return latent.interpolate(self, start, end, steps, *given)
        if mode == "traverse":
            dims = [seed % self.latent_dim for seed in seeds]
            origin = torch.zeros(self.latent_dim, device=self.device)
            return latent.traverse(self, origin, dims, steps, *given)
        if batch is None:
            raise UserError(
                f"--mode {mode} needs images: give --data CONFIG, or pass `batch` in Python"
            )
        image = batch["image"].to(self.device)
        if mode == "reconstruct":
            own = batch["label"].to(self.device) if self.classes else None
            return torch.stack([image, self.reconstruct(image, own)], 1)
        if attribute is None:
            raise UserError(
                "--mode attribute needs --attribute, such as a word that occurs in image names"
            )
        direction = latent.attribute_direction(
            self, batch["positive"].to(self.device), batch["negative"].to(self.device)
        )
        return latent.add_attribute(self, image, direction, steps)

    @sampling
    def preview(self, batch: dict[str, Any]) -> dict[str, Tensor | list[str]]:
        image, label = batch["image"], batch.get("label")
        rows = torch.stack([image, self.reconstruct(image, label)])  # (2, N, C, H, W)
        return {
            "reconstructions": rows,
            "reconstructions/rows": ["real", "reconstructed"],
            "samples": self.sample(list(range(len(image)))),
        }


def to_unit_interval(image: Tensor) -> Tensor:
    """Map values from [-1, 1] to [0, 1]."""
    return image.add(1).mul_(0.5)
