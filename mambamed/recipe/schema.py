"""The schema of a recipe: what a person may write, with its defaults. Defaults live here only.

The strings under the fields reach the JSON Schema (`mambamed recipes schema`), hence editors.
Options of a network are checked by the network itself, because each has its own.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Triple = tuple[int, int, int]
Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
ChannelKind = Literal["ct", "mri"]
Crop = Literal["nonzero", "none"]


class Section(BaseModel):
    """A part of a recipe: unknown keys are refused, nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Split(Section):
    """How cases are parted into training, validation and test; cases of one subject stay together."""

    folds: Annotated[int, Field(ge=2)] = 5
    """Number of cross-validation folds; unused where fractions are given."""
    train: Probability | None = None
    """Fraction of subjects for training, for one fixed split instead of cross-validation."""
    val: Probability | None = None
    """Fraction of subjects for validation."""
    test: Probability | None = None
    """Fraction of subjects kept for testing."""
    group_by: str = "subject"
    """What is never torn apart: subject, case, or a column of the dataset's table (then subjects neither)."""
    stratify: str | None = None
    """What is spread evenly over the parts: class, labels (which are there), or a column."""
    test_cases: tuple[str, ...] = ()
    """Ids of a fixed test set; the folds, or train and val, are made of the other cases."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 12345
    """Seed of the shuffle; the default is nnU-Net's."""

    @model_validator(mode="after")
    def _fractions_belong_together(self) -> Split:
        given = [self.train, self.val, self.test]
        if any(f is not None for f in given):
            if self.train is None or self.val is None:
                raise ValueError("give train and val (and test) together")
            if self.test and self.test_cases:
                raise ValueError("give test or test_cases, not both")
            total = sum(f or 0.0 for f in given)
            if abs(total - 1) > 1e-6:
                raise ValueError(f"train + val + test must be 1, here {total:g}")
        return self


class Dataset(Section):
    """What the recipe expects of the dataset; what is given must agree with the prepared one."""

    prepared: str | None = None
    """Folder of the prepared dataset; `-d` on the command line goes before it."""
    channels: dict[str, ChannelKind] | None = None
    """Channel name -> kind of intensity, in the order in which the network reads them."""
    labels: dict[str, int] | None = None
    """Label name -> integer class."""
    regions: dict[str, tuple[int, ...]] | None = None
    """Region name -> labels it unites; given, the network answers overlapping regions by sigmoid."""
    landmarks: tuple[str, ...] | None = None
    """Names of the landmarks."""
    landmark_pairs: tuple[tuple[str, str], ...] = ()
    """Landmarks that change places in a mirror image, as in [[left_eye, right_eye]]."""
    classes: tuple[str, ...] | None = None
    """Names of the classes, in the network's order; of two, the second is "positive". May be some of the
    dataset's: cases of another class are left out."""
    covariates: dict[str, Literal["number"] | tuple[str, ...]] = {}
    """Classification: what is known of a case beside its image, for the network to read too: name ->
    "number", or the words that it may be, as in {age: number, sex: [F, M]}."""
    split: Split = Split()


class Preprocess(Section):
    """From the native to the prepared grid; `prepare --recipe` uses it."""

    spacing: Literal["median", "keep"] | tuple[Positive, Positive, Positive] = "median"
    """Spacing of the prepared grid in mm (x, y, z): the training cases' median (nnU-Net's rule), each
    case's own, or three numbers."""
    crop: Crop = "nonzero"
    """Crop to the bounding box of what is not zero in any channel."""
    normalize: Literal["auto", "zscore", "zscore_nonzero", "ct", "none"] = "auto"
    """Intensities: auto = ct for CT channels, else zscore (of nonzero voxels where cropping removed much)."""


class Network(BaseModel):
    """The network and its options, which the network itself checks."""

    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)

    name: str
    """A name of `mambamed.networks.NETWORKS`."""

    @property
    def options(self) -> dict[str, Any]:
        """Every key but the name."""
        return dict(self.model_extra or {})


class Optimizer(Section):
    name: Literal["adam", "adamw", "sgd", "radam"] = "adamw"
    lr: Positive = 1e-3
    """Learning rate at the start of the schedule."""
    weight_decay: Annotated[float, Field(ge=0)] = 3e-5
    momentum: Probability = 0.99
    """SGD only, with Nesterov's form."""


class Schedule(Section):
    name: Literal["poly", "linear", "cosine", "constant"] = "poly"
    """How the learning rate falls over the steps of the run."""
    power: Positive = 0.9
    """Exponent of poly: lr * (1 - step/steps)^power."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps of linear rise from zero before it."""


class Loss(Section):
    """What is added up to the loss, each part weighted: soft Dice, cross-entropy (binary for regions), focal
    and boundary loss. Voxels of the label "ignore" count for nothing."""

    dice: Annotated[float, Field(ge=0)] = 1.0
    cross_entropy: Annotated[float, Field(ge=0)] = 1.0
    batch_dice: bool = False
    """Count Dice over the whole batch rather than each patch of it."""
    smooth: Annotated[float, Field(ge=0)] = 1e-5
    """Added to numerator and denominator of Dice."""
    focal: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the focal loss; usually instead of cross_entropy."""
    focal_gamma: Annotated[float, Field(ge=0)] = 2.0
    boundary: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the boundary loss (mean signed distance in mm under the prediction): 0.01 beside Dice."""
    class_weights: dict[str, Positive] | None = None
    """Weights of labels or regions in the cross-entropy; 1 where not named."""
    depth_weights: tuple[Annotated[float, Field(ge=0)], ...] | None = None
    """Weights of the depths of deep supervision, the finest first; half as much each where not given."""
    class_balance: bool = True
    """Classification: each class weighs the same, however many training cases it has."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target that is spread over all classes or labels; for regions, towards one half."""

    @model_validator(mode="after")
    def _something_is_learned(self) -> Loss:
        if self.dice == self.cross_entropy == self.focal == 0:
            raise ValueError("dice, cross_entropy and focal are all 0: nothing would be learned")
        if self.depth_weights is not None and sum(self.depth_weights) == 0:
            raise ValueError("depth_weights are all 0: nothing would be learned")
        return self


class Landmarks(Section):
    """Landmarks: what the network learns of a point, and how its answer becomes one."""

    target: Literal["gaussian", "ball"] = "gaussian"
    """A Gaussian around the point, or a ball in which the value falls evenly from 1 to 0 at three sigma."""
    sigma_mm: Positive | None = None
    """Width of the target; twice the mean spacing of the prepared grid where not given. Along an axis of
    coarser voxels it is 0.7 voxels at least."""
    loss: Literal["softmax", "mse", "bce"] = "softmax"
    """softmax: cross-entropy over all voxels and "nowhere"; mse: squared error of the heatmap, its peak
    weighted; bce: cross-entropy of each voxel, the worst of them counted."""
    peak_weight: Annotated[float, Field(ge=0)] = 100.0
    """mse: how much more the peak weighs than the background."""
    top_k: Annotated[float, Field(gt=0, le=1)] = 0.2
    """bce: share of a heatmap's voxels, the worst, that count."""
    offsets: bool = False
    """Also learn at every voxel near a landmark how far it is away: three more outputs a landmark."""
    decode: Literal["gaussian", "soft-argmax", "argmax"] = "gaussian"
    """From heatmap to point: a Gaussian fitted to the peak, the peak's center of mass, or its voxel."""
    threshold: Probability | None = None
    """Score below which a landmark counts as absent; chosen on validation cases where not given."""


class Augment(Section):
    """Random changes of a training patch; each probability counts per patch. Zero switches off."""

    mirror: tuple[Literal["x", "y", "z"], ...] = ("x", "y", "z")
    """Axes that may be mirrored, each with probability one half. Also the axes of mirroring in prediction."""
    rotate: Probability = 0.2
    rotate_degrees: Annotated[float, Field(ge=0, le=180)] = 30.0
    """Largest angle about each axis."""
    scale: Probability = 0.2
    scale_range: tuple[Positive, Positive] = (0.7, 1.4)
    elastic: Probability = 0.0
    elastic_mm: Positive = 4.0
    """Largest standard deviation of the displacement, mm; cut where space would fold."""
    elastic_smoothness_mm: Positive = 24.0
    """Distance over which displacements are independent, mm."""
    noise: Probability = 0.1
    noise_std: Annotated[float, Field(ge=0)] = 0.3
    """Largest standard deviation of additive Gaussian noise, in units of the normalized image."""
    blur: Probability = 0.2
    blur_sigma: tuple[Positive, Positive] = (0.5, 1.0)
    """Sigma of the Gaussian, in voxels."""
    brightness: Probability = 0.15
    brightness_range: tuple[Positive, Positive] = (0.75, 1.25)
    contrast: Probability = 0.15
    contrast_range: tuple[Positive, Positive] = (0.75, 1.25)
    low_resolution: Probability = 0.25
    low_resolution_range: tuple[Positive, Positive] = (0.5, 1.0)
    gamma: Probability = 0.3
    gamma_range: tuple[Positive, Positive] = (0.7, 1.5)
    drop_channel: Probability = 0.0
    """Each channel but one is blanked with this probability: for cases that lack channels."""

    @model_validator(mode="after")
    def _ranges_rise(self) -> Augment:
        for name in type(self).model_fields:
            value = getattr(self, name)
            if (name.endswith("_range") or name == "blur_sigma") and value[0] > value[1]:
                raise ValueError(f"{name}: the first number must not exceed the second, here {list(value)}")
        return self


class Training(Section):
    epochs: Annotated[int, Field(ge=1)] = 1000
    """Reporting intervals, each of `steps_per_epoch` optimizer updates."""
    steps_per_epoch: Annotated[int, Field(ge=1)] = 250
    batch_size: Annotated[int, Field(ge=1)] | None = None
    """Patches a step; the plan's where not given."""
    patch_size: Triple | None = None
    """Voxels the network sees (x, y, z); the plan's where not given."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """auto = bf16 where the device computes it fast, else fp32."""
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    loss: Loss = Loss()
    foreground: Probability = 0.33
    """Fraction of the patches of a batch that are centered on a foreground voxel."""
    augment: Augment = Augment()
    clip: Annotated[float, Field(ge=0)] = 12.0
    """Largest norm of the gradient; 0 = no clipping."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of the moving average of the weights, used for validation and prediction; 0 = none."""
    sync_batchnorm: bool = False
    """With several GPUs: count the statistics of BatchNorm over the patches of all of them."""
    patience: Annotated[int, Field(ge=0)] = 0
    """Epochs without a better score after which training ends early; 0 = it never does."""
    compile: Literal["auto", "always", "never"] = "never"
    """torch.compile of the training step; auto: steps are timed with and without, the faster way stays."""
    validation_patches: Annotated[int, Field(ge=1)] = 16
    """Patches of validation cases scored after each epoch; the whole volumes are scored at the end."""
    seed: int = 0

    @property
    def steps(self) -> int:
        """Optimizer updates of the whole run."""
        return self.epochs * self.steps_per_epoch


class Postprocess(Section):
    """What is done to a label map on its native grid; names are labels or regions. Empty: nothing."""

    fill_holes: tuple[str, ...] = ()
    """Of these, holes that nothing else fills are filled."""
    largest_component: tuple[str, ...] = ()
    """Of these, only the largest connected part is kept."""
    min_mm3: dict[str, Positive] = {}
    """Of these, connected parts of a smaller volume are removed."""


class Inference(Section):
    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share of a window that its neighbor along an axis covers too."""
    gaussian: bool = True
    """Weight a window's center more than its rim."""
    tta: Literal["mirror", "none"] = "mirror"
    """Average over mirrored copies, along the axes that training mirrored."""
    postprocess: Postprocess = Postprocess()


class Evaluation(Section):
    metrics: tuple[str, ...] = ("dice", "hd95")
    hd95: Literal["pooled", "max-directed", "surface-area"] = "max-directed"
    """Which of the three distances that go by this name."""
    empty: Literal["exclude", "brats"] = "exclude"
    """A structure absent from reference and prediction: left out of the mean by name, or Dice 1."""
    threshold: Literal["youden", "f1", "half"] = "youden"
    """Of two classes: how the threshold is chosen on the validation cases; half = 0.5 without a choice."""
    sdr_mm: tuple[Positive, ...] = (2.0, 2.5, 3.0, 4.0)
    """Landmarks: distances of the success detection rate."""
    calibrate: bool = True
    """Classification: scale the logits by a temperature that the validation cases tell."""


class Recipe(Section):
    """One experiment: what is learned, from what, by which network, how."""

    task: Literal["segmentation", "landmarks", "classification"] = "segmentation"
    name: str = ""
    """Name of the run; the file's name where not given."""
    dataset: Dataset = Dataset()
    preprocess: Preprocess = Preprocess()
    network: Network
    training: Training = Training()
    landmarks: Landmarks = Landmarks()
    inference: Inference = Inference()
    evaluation: Evaluation = Evaluation()
    measures: dict[str, tuple[str, ...]] = {}
    """Landmarks: name -> what is measured between them: two: their distance, mm; three: the angle at the
    second, degrees; four: the angle between the lines through the first two and the last two, degrees."""
    paper: dict[str, float | str] = {}
    """The paper's own numbers, shown beside ours."""

    @model_validator(mode="after")
    def _landmarks_have_names(self) -> Recipe:
        paired = [name for pair in self.dataset.landmark_pairs for name in pair]
        if len(set(paired)) < len(paired):
            raise ValueError("dataset.landmark_pairs: a landmark stands in two pairs; it has one partner")
        measured = [(f"measures.{key}", names) for key, names in self.measures.items()]
        for key, names in measured:
            if not 2 <= len(names) <= 4:
                raise ValueError(
                    f"{key}: {len(names)} landmarks; give two for a distance, three or four for an angle"
                )
        known = self.dataset.landmarks
        for key, names in [("dataset.landmark_pairs", paired), *measured]:
            strange = [name for name in names if known is not None and name not in known]
            if strange:
                raise ValueError(f"{key}: {', '.join(strange)}: not among dataset.landmarks")
        return self

    @model_validator(mode="after")
    def _only_classifiers_read_covariates(self) -> Recipe:
        if self.dataset.covariates and self.task != "classification":
            raise ValueError(f"dataset.covariates: {self.task} reads none; take them out")
        return self
