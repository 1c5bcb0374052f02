"""The schema of a recipe: all keys with their types and defaults.

The strings under the fields become descriptions in the JSON Schema (`mambamed recipes schema`), for editors.
The options of a network are checked by the network itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from mambamed.cases import BACKGROUND, IGNORE
from mambamed.geometry import SPACINGS_MM
from mambamed.metrics import parse_metrics
from mambamed.recipe.applicability import without_effect
from mambamed.recipe.tasks import TASKS
from mambamed.schema_errors import repeated

Size = Annotated[int, Field(ge=1)]
Triple = tuple[Size, Size, Size]
if TYPE_CHECKING:
    TaskName = str
else:
    TaskName = Literal[tuple(TASKS)]
Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Edge = Annotated[float, Field(ge=SPACINGS_MM[0], le=SPACINGS_MM[1])]  # of a voxel, mm
Fault = tuple[tuple[str, ...], str]  # a key path, and what is wrong there
ChannelKind = Literal["ct", "mri"]
Crop = Literal["nonzero", "none"]


def is_of_a_run(info: ValidationInfo) -> bool:
    """Whether the recipe is that of a run, which stays readable if it holds keys without effect."""
    return bool(info.context)


class Section(BaseModel):
    """A section of a recipe: unknown keys are rejected, and values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class Split(Section):
    """How cases are split into training, validation and test sets."""

    folds: Annotated[int, Field(ge=2)] = 5
    """Number of cross-validation folds; ignored if fractions are given."""
    train: Probability | None = None
    """Fraction of subjects for training, for one fixed split instead of cross-validation."""
    val: Probability | None = None
    """Fraction of subjects for validation."""
    test: Probability | None = None
    """Fraction of subjects for testing."""
    group_by: str = "subject"
    """Keep cases with the same value on the same side of every split: subject, case, or a column name of the
    dataset's table (which keeps subjects together too)."""
    stratify: str | None = None
    """Balance this attribute across the splits: class (default for classification), labels (those present in
    a case), a column name, or none."""
    test_cases: tuple[str, ...] = ()
    """Case ids of a fixed test set; folds, or train and val, are drawn from the other cases."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 12345
    """Random seed of the split; the default is the same as nnU-Net's."""

    @model_validator(mode="after")
    def _fractions_belong_together(self) -> Split:
        given = [self.train, self.val, self.test]
        if any(f is not None for f in given):
            if self.train is None or self.val is None:
                raise ValueError("train and val must be given together. Add the missing one.")
            if self.test and self.test_cases:
                raise ValueError("test and test_cases exclude each other. Remove one of them.")
            total = sum(f or 0.0 for f in given)
            if abs(total - 1) > 1e-6:
                raise ValueError(f"expected train + val + test = 1, got {total:g}. Correct the fractions.")
        return self


class Dataset(Section):
    """The dataset that the recipe expects; the keys given must agree with the prepared dataset."""

    prepared: str | None = None
    """Folder of the prepared dataset; `-d` on the command line overrides it."""
    channels: dict[str, ChannelKind] | None = None
    """Channel name -> modality, in the order of the input channels of the network."""
    labels: dict[str, int] | None = None
    """Label name -> integer class."""
    regions: dict[str, tuple[int, ...]] | None = None
    """Region name -> its labels. If given, the network predicts regions, which may overlap (sigmoid)."""
    landmarks: tuple[str, ...] | None = None
    """Names of the landmarks."""
    mirror_pairs: tuple[tuple[str, str], ...] = ()
    """Pairs of labels, regions, landmarks or classes that mirroring across x swaps, e.g. [[left_eye,
    right_eye]], in addition to names that differ only in left and right; a name paired with itself is its own
    mirror image. `landmark_pairs` is an earlier name of this key."""
    classes: tuple[str, ...] | None = None
    """Names of the classes, in the order of the network's outputs; of two, the second is the positive one. If
    it lists only some classes of the dataset, cases of other classes are ignored."""
    covariates: dict[str, Literal["number"] | Annotated[tuple[str, ...], Field(min_length=1)]] = {}
    """Classification: further inputs of the network, given per case: name -> "number", or the list of allowed
    values, e.g. {age: number, sex: [F, M]}."""
    split: Split = Split()

    @model_validator(mode="before")
    @classmethod
    def _earlier_name(cls, values: Any) -> Any:
        if not isinstance(values, dict) or "landmark_pairs" not in values:
            return values
        if "mirror_pairs" in values:
            raise ValueError("landmark_pairs is the earlier name of mirror_pairs. Keep only mirror_pairs.")
        return {{"landmark_pairs": "mirror_pairs"}.get(key, key): value for key, value in values.items()}


class Preprocess(Section):
    """Preprocessing of images; used by `prepare --recipe`."""

    spacing: Literal["median", "keep"] | tuple[Edge, Edge, Edge] = "median"
    """Voxel spacing after resampling: median (of the training cases, like nnU-Net), keep (unchanged), or
    three numbers (x, y, z) in mm."""
    crop: Crop = "nonzero"
    """nonzero: crop to the bounding box of voxels that are not zero in some channel."""
    normalize: Literal["auto", "zscore", "zscore_nonzero", "ct", "none"] = "auto"
    """Intensity normalization; auto: ct for CT channels, else zscore (of nonzero voxels if cropping removed
    much)."""


class Network(BaseModel):
    """The network and its options; the network checks them itself."""

    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)

    name: str
    """Name of a network, see docs/networks.md."""

    @property
    def options(self) -> dict[str, Any]:
        """All keys except the name."""
        return dict(self.model_extra or {})


class Optimizer(Section):
    name: Literal["adam", "adamw", "sgd", "radam"] = "adamw"
    lr: Positive = 1e-3
    """Learning rate at the start of the schedule."""
    weight_decay: Annotated[float, Field(ge=0)] = 3e-5
    momentum: Probability = 0.99
    """sgd only: Nesterov momentum."""


class Schedule(Section):
    name: Literal["poly", "linear", "cosine", "constant"] = "poly"
    """Decay of the learning rate over the run."""
    power: Positive = 0.9
    """poly only: exponent of lr * (1 - step/steps)^power."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Number of steps with linear warmup from zero."""


class Loss(Section):
    """Weighted sum of soft Dice, cross-entropy (binary for regions), focal and boundary loss. Voxels with the
    label "ignore" are excluded."""

    dice: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the soft Dice loss."""
    cross_entropy: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the cross-entropy."""
    batch_dice: bool = False
    """Compute Dice over the whole batch instead of per patch."""
    smooth: Annotated[float, Field(ge=0)] = 1e-5
    """Smoothing term in the numerator and denominator of Dice."""
    focal: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the focal loss; usually replaces cross_entropy."""
    focal_gamma: Annotated[float, Field(ge=0)] = 2.0
    """Focusing parameter gamma of the focal loss."""
    boundary: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the boundary loss (mean signed distance in mm, weighted by the prediction); e.g. 0.01 in
    addition to Dice."""
    class_weights: dict[str, Positive] | None = None
    """Weights of labels or regions in the cross-entropy (default: 1)."""
    depth_weights: tuple[Annotated[float, Field(ge=0)], ...] | None = None
    """Weights of the deep-supervision outputs, finest first (default: halved at each level)."""
    class_balance: bool = True
    """Classification: weight classes equally, regardless of their number of training cases."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Fraction of the target that is spread over all classes or labels (for regions, moved towards 0.5)."""

    @model_validator(mode="after")
    def _something_is_learned(self) -> Loss:
        if self.dice == self.cross_entropy == self.focal == 0:
            raise ValueError("dice, cross_entropy and focal are all 0. Give one of them a positive weight.")
        if self.depth_weights is not None and sum(self.depth_weights) == 0:
            raise ValueError("depth_weights are all 0. Give one of them a positive value.")
        return self


class Landmarks(Section):
    """Landmarks: targets, loss and decoding of heatmaps."""

    target: Literal["gaussian", "ball"] = "gaussian"
    """Target heatmap: a Gaussian, or a ball whose value decreases linearly from 1 to 0 at three sigma."""
    sigma_mm: Positive | None = None
    """Width of the target in mm (default: twice the mean spacing of the prepared grid); at least 0.7 voxels
    along every axis."""
    loss: Literal["softmax", "mse", "bce"] = "softmax"
    """softmax: cross-entropy over all voxels and a class "absent"; mse: squared error with a weighted peak;
    bce: binary cross-entropy of the voxels with the highest loss."""
    peak_weight: Annotated[float, Field(ge=0)] = 100.0
    """mse only: weight of the peak relative to the background."""
    top_k: Annotated[float, Field(gt=0, le=1)] = 0.2
    """bce only: fraction of the voxels, those with the highest loss, that is used."""
    offsets: bool = False
    """Also predict the offset to the landmark at every voxel near it (three more outputs per landmark)."""
    decode: Literal["gaussian", "soft-argmax", "argmax"] = "gaussian"
    """Decoding of heatmaps: fit of a Gaussian to the peak, center of mass of the peak, or the peak voxel."""
    threshold: Probability | None = None
    """Report a landmark as absent below this score (default: chosen on the validation cases)."""


class Augment(Section):
    """Data augmentation; each probability applies per patch, and 0 disables the transform."""

    mirror: tuple[Literal["x", "y", "z"], ...] = ("x", "y", "z")
    """Axes that are mirrored, each with probability 0.5; also used for test-time augmentation."""
    rotate: Probability = 0.2
    """Probability of a rotation."""
    rotate_degrees: Annotated[float, Field(ge=0, le=180)] = 30.0
    """Maximum angle about each axis."""
    scale: Probability = 0.2
    scale_range: tuple[Positive, Positive] = (0.7, 1.4)
    elastic: Probability = 0.0
    """Probability of an elastic deformation."""
    elastic_mm: Positive = 4.0
    """Maximum standard deviation of the displacement in mm; reduced if the deformation would fold."""
    elastic_smoothness_mm: Positive = 24.0
    """Distance in mm beyond which displacements are independent."""
    noise: Probability = 0.1
    noise_std: Annotated[float, Field(ge=0)] = 0.3
    """Maximum standard deviation of additive Gaussian noise, in units of the normalized image."""
    blur: Probability = 0.2
    blur_sigma: tuple[Positive, Positive] = (0.5, 1.0)
    """Range of the sigma of the Gaussian, in voxels."""
    brightness: Probability = 0.15
    brightness_range: tuple[Positive, Positive] = (0.75, 1.25)
    contrast: Probability = 0.15
    contrast_range: tuple[Positive, Positive] = (0.75, 1.25)
    low_resolution: Probability = 0.25
    low_resolution_range: tuple[Positive, Positive] = (0.5, 1.0)
    gamma: Probability = 0.3
    gamma_range: tuple[Positive, Positive] = (0.7, 1.5)
    drop_channel: Probability = 0.0
    """Probability of setting each channel to zero (one always remains); `predict --missing
    zero` then accepts cases with missing channels."""

    @model_validator(mode="after")
    def _ranges_rise(self) -> Augment:
        for name in type(self).model_fields:
            value = getattr(self, name)
            if (name.endswith("_range") or name == "blur_sigma") and value[0] > value[1]:
                raise ValueError(f"{name}: expected a rising range, got {list(value)}. Swap the two numbers.")
        return self


class Training(Section):
    epochs: Annotated[int, Field(ge=1)] = 1000
    """Number of epochs; each has `steps_per_epoch` optimizer steps."""
    steps_per_epoch: Annotated[int, Field(ge=1)] = 250
    batch_size: Annotated[int, Field(ge=1)] | None = None
    """Patches per step (default: from the plan)."""
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Gradient accumulation: number of batches whose gradients are averaged for one optimizer step. A step
    needs the memory of one batch."""
    patch_size: Triple | None = None
    """Patch size in voxels (x, y, z) (default: from the plan)."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Numeric precision; auto: bf16 if the device computes it fast, else fp32."""
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    loss: Loss = Loss()
    foreground: Probability = 0.33
    """Fraction of patches that are centered on a foreground voxel or landmark."""
    augment: Augment = Augment()
    augment_on: Literal["auto", "cpu", "gpu"] = "auto"
    """Augment patches on the CPU, or on the GPU of the network with the same random numbers; auto: on the GPU
    if there are fewer than 10 cores per GPU."""
    clip: Annotated[float, Field(ge=0)] = 12.0
    """Maximum gradient norm; 0 disables clipping."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of the exponential moving average of the weights, which is used for validation and prediction; 0
    disables it."""
    sync_batchnorm: bool = False
    """With several GPUs: synchronize the statistics of batch normalization."""
    patience: Annotated[int, Field(ge=0)] = 0
    """Early stopping: number of epochs without improvement; 0 disables it."""
    compile: Literal["auto", "always", "never"] = "never"
    """Use torch.compile for the training step; auto: measure both ways and keep the faster one."""
    validation_patches: Annotated[int, Field(ge=1)] = 16
    """Number of validation patches scored after each epoch; whole volumes are scored after training."""
    seed: int = 0
    """Random seed of weights, patches and augmentation."""

    @property
    def steps(self) -> int:
        """Number of optimizer steps of the run."""
        return self.epochs * self.steps_per_epoch


class Postprocess(Section):
    """Postprocessing of the predicted label map on the grid of the input; names are labels or regions."""

    fill_holes: tuple[str, ...] = ()
    """Labels or regions whose enclosed background holes are filled."""
    largest_component: tuple[str, ...] = ()
    """Labels or regions of which only the largest connected component is kept."""
    min_mm3: dict[str, Positive] = {}
    """Label or region -> minimum volume in mm3; smaller connected components are removed."""


class Inference(Section):
    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Sliding-window overlap, as a fraction of the window size."""
    gaussian: bool = True
    """Weight the center of each window higher than its border (Gaussian)."""
    tta: Literal["mirror", "none"] = "mirror"
    """Test-time augmentation: average over copies mirrored along the axes of `training.augment.mirror`."""
    postprocess: Postprocess = Postprocess()


class Evaluation(Section):
    metrics: tuple[str, ...] = ("dice", "hd95")
    """Segmentation: metrics to compute, see docs/metrics.md; the first one is the main score."""
    hd95: Literal["pooled", "max-directed", "surface-area"] = "max-directed"
    """Definition of HD95; see docs/metrics.md."""
    empty: Literal["exclude", "brats"] = "exclude"
    """How to score a structure that is empty in reference and prediction: exclude it, or Dice 1 (brats)."""
    threshold: Literal["youden", "f1", "half"] = "youden"
    """For two classes: how the probability threshold is chosen on the validation cases; half: always 0.5."""
    sdr_mm: tuple[Positive, ...] = (2.0, 2.5, 3.0, 4.0)
    """Landmarks: distances in mm for the success detection rate."""
    calibrate: bool = True
    """Choose a temperature on the validation cases that calibrates probabilities: of classes, and of the
    uncertainty of masks."""

    @field_validator("metrics")
    @classmethod
    def _metrics_are_known(cls, metrics: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if not is_of_a_run(info):
            parse_metrics(metrics)
        return metrics


class Recipe(Section):
    """One experiment: dataset, network, training, prediction and evaluation."""

    task: TaskName = "segmentation"
    """Keys that apply to another task are rejected."""
    name: str = ""
    """Name of the run (default: the name of the file)."""
    dataset: Dataset = Dataset()
    preprocess: Preprocess = Preprocess()
    network: Network
    training: Training = Training()
    landmarks: Landmarks = Landmarks()
    inference: Inference = Inference()
    evaluation: Evaluation = Evaluation()
    measures: dict[str, tuple[str, ...]] = {}
    """Measure name -> landmarks: two give their distance (mm), three the angle at the second (degrees), four
    the angle between the lines through the first two and the last two (degrees)."""
    paper: dict[str, float | str] = {}
    """Results reported in the paper, shown next to those of the run."""

    @model_validator(mode="after")
    def _keys_agree(self, info: ValidationInfo) -> Recipe:
        faults = [*self._unknown_landmarks(), *self._unknown_pairs(), *self._unknown_structures()]
        if not is_of_a_run(info):
            faults += without_effect(self)
        if faults:
            raise ValidationError.from_exception_data(
                "Recipe",
                [
                    InitErrorDetails(
                        type=PydanticCustomError("recipe", "{fact}", {"fact": fact}), loc=key, input=None
                    )
                    for key, fact in faults
                ],
            )
        return self

    def _unknown_landmarks(self) -> Iterator[Fault]:
        for name, landmarks in self.measures.items():
            if not 2 <= len(landmarks) <= 4:
                yield (
                    ("measures", name),
                    f"expected 2 to 4 landmarks, got {len(landmarks)}. Give two for a distance.",
                )
            if unknown := [name for name in landmarks if name not in (self.dataset.landmarks or landmarks)]:
                yield ("measures", name), f"{', '.join(unknown)} not in dataset.landmarks. Correct the name."

    def _unknown_pairs(self) -> Iterator[Fault]:
        dataset = self.dataset
        key, known = {
            "landmarks": ("landmarks", dataset.landmarks),
            "classification": ("classes", dataset.classes),
        }.get(self.task, ("labels", dataset.labels and {**dataset.labels, **(dataset.regions or {})}))
        paired = [name for pair in dataset.mirror_pairs for name in dict.fromkeys(pair)]
        if twice := repeated(paired):
            yield ("dataset", "mirror_pairs"), f"{twice} occurs in two pairs. Keep one of them."
        if alike := [name for name in paired if name in (BACKGROUND, IGNORE)]:
            yield ("dataset", "mirror_pairs"), f"{alike[0]} has no partner on the other side. Remove it."
        if unknown := [name for name in paired if known is not None and name not in known]:
            yield ("dataset", "mirror_pairs"), f"{', '.join(unknown)} not in dataset.{key}. Correct the name."

    def _unknown_structures(self) -> Iterator[Fault]:
        labels = [name for name, value in (self.dataset.labels or {}).items() if value and name != "ignore"]
        known = list(self.dataset.regions) if self.dataset.regions else labels
        named = {("inference", "postprocess", key): names for key, names in self.inference.postprocess}
        for key, names in named.items():
            if unknown := [name for name in names if known and name not in known]:
                yield (
                    key,
                    f"{unknown[0]} is not predicted; expected one of {', '.join(known)}. Correct the name.",
                )
