"""Every setting of a run: its type, its range, and what it means.

Hydra reads these classes as the schema of `conf/`, so a misspelt key or a wrong type is refused while the
configuration is composed. Numbers carry their range beside the type (`number`); what depends on several
fields is checked in `roadmap.config.checks`. `MISSING` fields get their value from a YAML file. No torch here.
"""

from __future__ import annotations

import dataclasses
from dataclasses import Field, dataclass, field
from enum import StrEnum
from functools import cache
from typing import Any, Self, get_type_hints

from omegaconf import MISSING


def number(default: Any = MISSING, **limits: float) -> Any:
    """A field with a range: `above`, `least`, `below`, `most` (in the order >, >=, <, <=)."""
    return field(default=default, metadata={"limits": limits})


def named(kind: type[StrEnum], default: Any = MISSING) -> Any:
    """A field that takes these names, and those of one's own parts."""
    return field(default=default, metadata={"names": kind})


def default_of(entry: Field[Any]) -> Any:
    """What a field holds where nothing is said; `MISSING` where something must be."""
    return entry.default if entry.default_factory is dataclasses.MISSING else entry.default_factory()


class NamedWithFacts(StrEnum):
    """Choices that know something of themselves: `name = "name", facts`."""

    facts: Any

    def __new__(cls, name: str, facts: Any) -> Self:
        """A name with its facts."""
        member = str.__new__(cls, name)
        member._value_, member.facts = name, facts
        return member


class Stem(StrEnum):
    """The first layer."""

    conv_pool = "conv_pool"  # 7x7 stride 2, norm, activation, 3x3 max pool stride 2
    patchify = "patchify"  # 4x4 stride 4, nothing else


class Bottleneck(StrEnum):
    """Which way a block's width runs, for a stage of width W."""

    narrow = "narrow"  # 4W -> W -> 4W, ResNet
    inverted = "inverted"  # W -> 4W -> W, MobileNetV2, Transformers


class SpatialConv(StrEnum):
    """Where the k x k convolution stands among the block's three."""

    middle = "middle"
    first = "first"


class Activation(StrEnum):
    """The nonlinearity, everywhere in the network."""

    relu = "relu"
    gelu = "gelu"


class Norm(StrEnum):
    """The normalisation, everywhere in the network."""

    batch = "batch"  # BatchNorm, eps 1e-5
    layer = "layer"  # LayerNorm over channels at each position, eps 1e-6


class BlockPart(StrEnum):
    """What stands in a block before its last convolution, where it stands in any."""

    grn = "grn"  # global response normalisation (ConvNeXt V2, arXiv 2301.00808)


class Keep(StrEnum):
    """How many norms or activations a block keeps."""

    all = "all"
    one = "one"


class Downsampling(StrEnum):
    """Where the resolution halves between stages."""

    in_block = "in_block"  # stride in the first block of a stage, projection shortcut
    separate = "separate"  # norm, then a 2x2 stride-2 convolution; norms after the stem and the pooling


@dataclass
class StepConfig:
    """Which step of the roadmap this is; filled in from the step's file, never by hand."""

    name: str = ""  # a reference's is the model's
    parent: str | None = None
    label: str = ""
    group: str = ""
    before: str | None = None  # the roadmap's first step, where this one is its network under another recipe
    roadmap: str = ""  # that it is part of, where that is not the paper's


class TaskName(StrEnum):
    """What the network is trained to do."""

    classification = "classification"  # one class for each image
    detection = "detection"  # a box, a class and a mask for each object
    segmentation = "segmentation"  # a class for each pixel

    @property
    def target(self) -> Target:
        """What it learns from."""
        return {TaskName.detection: Target.objects, TaskName.segmentation: Target.map}.get(self, Target.label)


@dataclass
class TaskConfig:
    """The task: it decides the targets, the loss and the metric."""

    name: TaskName = MISSING


@dataclass(frozen=True)
class HeadFacts:
    """The task that a head is for, and the settings that it reads; the rest have no effect on it."""

    task: TaskName
    reads: frozenset[str] = frozenset()


BODY = frozenset({"output_norm", "backbone_norm", "channels"})
REGIONS = BODY | {
    "box_channels", "box_convolutions", "mask_convolutions", "box_loss", "proposal_loss", "proposals_train", "proposals_test",
    "samples", "anchor_scale", "detections", "score_threshold", "nms",
}  # fmt: skip


class Head(NamedWithFacts):
    """What stands on the backbone; the classifier of images is part of the network itself."""

    facts: HeadFacts

    none = "none", HeadFacts(TaskName.classification)
    mask_rcnn = "mask_rcnn", HeadFacts(TaskName.detection, REGIONS)
    cascade_mask_rcnn = "cascade_mask_rcnn", HeadFacts(TaskName.detection, REGIONS)
    upernet = "upernet", HeadFacts(TaskName.segmentation, BODY | {"aux_channels", "aux_weight", "dropout", "pools"})


class OutputNorm(StrEnum):
    """What stands on each of the backbone's four outputs."""

    layer = "layer"  # a LayerNorm of its own, learnt with the head
    none = "none"


class BackboneNorm(StrEnum):
    """What a backbone's BatchNorms do."""

    trained = "trained"  # statistics of each micro-batch, and weights that learn
    frozen = "frozen"  # statistics and weights stay as they start, as detectors freeze a trained ResNet's
    sync = "sync"  # as trained, with the statistics of all devices' micro-batches together


class BoxLoss(StrEnum):
    """How far a box is from its object, for the gradient of the box head."""

    l1 = "l1"  # of the four offsets
    smooth_l1 = "smooth_l1"  # the same, quadratic below 1/9
    giou = "giou"  # generalised overlap of the decoded boxes, times 10


@dataclass
class HeadConfig:
    """What turns the backbone's four maps into the task's outputs; the defaults are the paper's (appendix A.3)."""

    name: Head = Head.none
    output_norm: OutputNorm = OutputNorm.layer
    backbone_norm: BackboneNorm = BackboneNorm.trained
    channels: int = number(256, least=8, most=4096)  # of the feature pyramid, or of UPerNet
    box_channels: int = number(1024, least=8, most=8192)  # of the box head's fully connected layers
    box_convolutions: int = number(0, least=0, most=16)  # before them; one fully connected layer then, two without
    mask_convolutions: int = number(4, least=0, most=16)  # before the mask head's upsampling
    box_loss: BoxLoss = BoxLoss.l1
    proposal_loss: BoxLoss = BoxLoss.l1  # of the region proposals
    proposals_train: int = number(1000, least=1, most=100_000)  # boxes a picture that the box head is given
    proposals_test: int = number(1000, least=1, most=100_000)
    samples: int = number(512, least=1, most=100_000)  # of them that its loss is taken over
    anchor_scale: float = number(8.0, above=0.0, most=128.0)  # side of an anchor / stride of its map
    detections: int = number(100, least=1, most=10_000)  # a picture, the surest
    score_threshold: float = number(0.05, least=0.0, below=1.0)  # below it nothing is a detection
    nms: float = number(0.5, above=0.0, most=1.0)  # overlap from which the less sure of two boxes of a class is dropped
    aux_channels: int = number(256, least=8, most=4096)  # of UPerNet's auxiliary head, on the third map
    aux_weight: float = number(0.4, least=0.0, most=10.0)  # of its loss; 0: no such head
    dropout: float = number(0.1, least=0.0, below=1.0)  # of channels, before the class of each pixel
    pools: list[int] = field(default_factory=lambda: [1, 2, 3, 6])  # cells a side of UPerNet's pooled maps


@dataclass
class ScaleConfig:
    """A pair of end points: the ResNet that the roadmap starts from and the ConvNeXt that it reaches."""

    name: str = MISSING
    start: str = MISSING
    end: str = MISSING
    resnet_depths: list[int] = MISSING
    resnet_width: int = MISSING
    convnext_depths: list[int] = MISSING
    stage_ratio_width: int = MISSING
    convnext_width: int = MISSING
    drop_path: float = MISSING


@dataclass
class ModelConfig:
    """The toggles: the coordinates of one network in the roadmap's design space."""

    stem: Stem = MISSING
    depths: list[int] = MISSING  # blocks in each of the four stages
    width: float = number(least=1, most=4096)  # channels of the stem; stages have 1, 2, 4, 8 times as many, rounded
    depthwise: bool = MISSING  # the spatial convolution has one group a channel
    bottleneck: Bottleneck = MISSING
    spatial_conv: SpatialConv = MISSING
    kernel_size: int = number(least=1, most=63)  # of the spatial convolution; odd
    activation: str = named(Activation)
    block_activations: Keep = MISSING  # one: the one before the block's last convolution
    norm: str = named(Norm)
    block_norms: Keep = MISSING  # one: the one after the spatial convolution; the shortcut keeps its own
    block_bias: bool = MISSING  # of the block's three convolutions; the shortcut's has none
    downsampling: Downsampling = MISSING
    layer_scale: float | None = number(above=0.0)  # initial value; null: off
    drop_path: float = number(least=0.0, below=1.0)  # stochastic depth of the last block; linear from 0
    block_part: str | None = named(BlockPart, None)  # before the block's last convolution, after its activation; null: nothing


class Target(StrEnum):
    """What is known of each picture, and so what can be learnt from it."""

    label = "class"
    objects = "list of objects"  # each with a class, a box and a mask
    map = "map"  # a class for each pixel


@dataclass(frozen=True)
class SourceFacts:
    """What is known of a data set before its images are looked for: which settings it needs, and which do nothing."""

    package: str | None = None  # that the images come with; None: data.path names them
    downloadable: bool = False  # data.download=true fetches it
    examined: bool = True  # each image is decoded before training, and data.accept lets faults through
    targets: frozenset[Target] = frozenset({Target.label})


class Source(NamedWithFacts):
    """The data sets by name; the class of each is in `roadmap.data.images.sources`."""

    facts: SourceFacts

    digits = "digits", SourceFacts(package="scikit-learn", examined=False)
    folder = "folder", SourceFacts()
    imagenette = "imagenette", SourceFacts(downloadable=True)
    cifar10 = "cifar10", SourceFacts(downloadable=True, examined=False)
    cifar100 = "cifar100", SourceFacts(downloadable=True, examined=False)
    imagenet = "imagenet", SourceFacts()
    coco = "coco", SourceFacts(targets=frozenset({Target.objects}))
    maps = "maps", SourceFacts(targets=frozenset({Target.map}))
    ade20k = "ade20k", SourceFacts(targets=frozenset({Target.map}))
    scenes = "scenes", SourceFacts("scikit-learn", examined=False, targets=frozenset({Target.objects, Target.map}))


class Pipeline(StrEnum):
    """How images reach the network."""

    auto = "auto"  # on a GPU device, where the decoded images fit on it, else stream; on a CPU loader
    loader = "loader"  # decoded and augmented by timm's transforms, in processes of their own
    device = "device"  # decoded once, kept on the device as bytes and augmented there in batches
    stream = "stream"  # decoded in processes of their own and augmented on the device: the pictures of device, bit for bit

    @property
    def pictures(self) -> Pipeline:
        """The pipeline that stands for all that make the same pictures."""
        return Pipeline.device if self is Pipeline.stream else self


class Fault(StrEnum):
    """What is wrong with images that can be trained on all the same, where one knows of it."""

    cmyk = "cmyk"  # colours of print; read as RGB without a colour profile
    small = "small"  # a side of less than 8 pixels
    duplicate = "duplicate"  # the same bytes in train and in val: an image that is trained on is scored
    numeric_order = "numeric_order"  # classes named by numbers, in the order of their letters: 1, 10, 2
    degenerate = "degenerate"  # objects whose box or mask holds nothing; they are not trained on
    outside = "outside"  # boxes and polygons that reach out of their picture
    disagree = "disagree"  # boxes that are not around their mask


@dataclass
class DataConfig:
    """Images and how they reach the network."""

    source: Source = MISSING
    path: str | None = None  # the folder on disk, or an archive of it; digits need none
    accept: list[Fault] = field(default_factory=list)  # let through, with a warning, what is refused otherwise
    download: bool = False  # let torchvision fetch what is not there
    held_out: float = number(0.0, least=0.0, most=0.5)  # of the training images: scored in place of val, to choose settings by
    classes: int | None = number(None, least=2, most=255)  # of maps, where no file beside them names their classes
    image_size: int = number(least=32, most=4096)  # pixels: height = width; detection, segmentation: the shorter side
    longest_side: int | None = number(None, least=32, most=16384)  # pixels, detection and segmentation: the picture shrinks to it
    hflip: float = number(least=0.0, most=1.0)  # probability; 0 where a mirrored image changes its class
    crop_pct: float = number(above=0.0, most=1.0)  # evaluation: centre crop / resized shorter side
    mean: list[float] = MISSING
    std: list[float] = MISSING
    pipeline: Pipeline = Pipeline.auto
    workers: int | None = number(None, least=0, most=256)  # loader processes; null: one a core; the result is the same


class Precision(StrEnum):
    """Arithmetic of the forward pass."""

    auto = "auto"  # bfloat16 on a GPU, float32 on a CPU
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"  # with a loss scaler


@dataclass(frozen=True)
class OptimizerFacts:
    """Which settings of the recipe an optimizer reads, beside its rate and weight decay; the rest have no effect on it."""

    reads: frozenset[str]
    fused: bool = False  # in torch's fused form, which skips an update on the device itself, as float16's scaler needs


class Optimizer(NamedWithFacts):
    """What moves the weights, by timm's names."""

    facts: OptimizerFacts

    adamw = "adamw", OptimizerFacts(frozenset({"betas", "eps"}), fused=True)
    sgd = "sgd", OptimizerFacts(frozenset({"momentum", "nesterov"}), fused=True)  # weight decay is added to the gradient
    lamb = "lamb", OptimizerFacts(frozenset({"betas", "eps"}))  # without its own clipping at a norm of 1: recipe.clip_grad
    lion = "lion", OptimizerFacts(frozenset({"betas"}))
    muon = "muon", OptimizerFacts(frozenset({"momentum", "nesterov", "betas", "eps"}))  # AdamW on vectors, with betas and eps


class Schedule(StrEnum):
    """How the learning rate runs after its warm-up."""

    cosine = "cosine"  # to min_lr as training ends
    step = "step"  # times `lr_factor` at each of `milestones`
    polynomial = "polynomial"  # to min_lr as training ends, by the power `lr_power` of what is left
    constant = "constant"


class Spared(StrEnum):
    """The weights on which weight decay does not act."""

    vectors = "vectors"  # biases and other 1-D parameters: norms, layer scale; a reference's own list too
    norm_bias = "norm_bias"  # biases and the weights of norms; layer scale decays
    none = "none"


class Clip(StrEnum):
    """What of the gradient `clip_grad` bounds."""

    norm = "norm"  # over all weights together
    value = "value"  # each number of it


class Initialisation(StrEnum):
    """How weights start; norms start as the identity and biases from 0 either way."""

    paper = "paper"  # truncated normal of deviation 0.02 (appendix A.1)
    torchvision = "torchvision"  # its ResNets': convolutions normal by fan-out (He et al.), classifier uniform by fan-in


class Layering(StrEnum):
    """What a layer is, for a rate that decays from layer to layer."""

    triples = "triples"  # three blocks, as timm groups them
    layers = "layers"  # stem; stages 1, 2 and 4 with their downsampling; the third in groups, `decay_layers` in all
    stages = "stages"  # stem and downsampling; then each stage one


class Interpolation(StrEnum):
    """Between the pixels of a picture that is resized, in training and evaluation."""

    bicubic = "bicubic"
    bilinear = "bilinear"


TRIVIAL = "trivial"  # recipe.auto_augment: torchvision's TrivialAugmentWide
LOADER_ONLY = {"auto_augment": None, "color_jitter": 0.0, "interpolation": Interpolation.bicubic}
"""Settings of the recipe that only `data.pipeline=loader` knows, with the values that every pipeline has."""

OF_CLASSES = {
    "label_smoothing": 0.0, "mixup": 0.0, "cutmix": 0.0, "randaugment": None, "random_erasing": 0.0, "crop_scale": [1.0, 1.0],
    **LOADER_ONLY, "dropout": 0.0, "head_scale": 1.0,
}  # fmt: skip
"""Settings of the recipe that only classification knows, with the values that they have for other tasks."""
OF_OBJECTS: dict[str, Any] = {
    "short_sides": [], "crop_sides": [], "crop_range": [], "jitter": [], "crop_size": None, "class_share": None,
    "photometric": False, "layering": Layering.triples,
}  # fmt: skip
"""Settings that only detection and segmentation know, with the values that they have in classification."""


@dataclass
class RecipeConfig:
    """How a network is trained: Table 5 of the paper, one field a row; what has a default there is as in the roadmap."""

    name: str = MISSING
    epochs: int = number(least=1, most=100_000)
    batch_size: int = number(least=1, most=1_000_000)  # images in one update, over all devices and micro-batches
    micro_batch: int | None = number(None, least=1, most=1_000_000)  # images at once: BatchNorm's statistics; null: batch_size
    sync_batchnorm: bool = False  # BatchNorm's statistics over the micro-batches of all devices at once
    ema: float | None = number(None, above=0.0, below=1.0)  # decay of the averaged weights that are scored; null: off
    lr: float = number(above=0.0, most=100.0)  # for a batch of `lr_batch` images; scaled linearly to `batch_size`
    lr_batch: int = number(least=1)
    min_lr: float = number(least=0.0)
    warmup_epochs: float = number(least=0.0)
    weight_decay: float = number(least=0.0, most=10.0)
    betas: list[float] = MISSING
    eps: float = number(above=0.0)
    label_smoothing: float = number(least=0.0, below=1.0)
    mixup: float = number(least=0.0)  # Beta parameter; 0: off
    cutmix: float = number(least=0.0)
    mixup_switch_prob: float = number(least=0.0, most=1.0)  # probability of cutmix where both are on
    randaugment: str | None = MISSING  # timm's description, e.g. rand-m9-mstd0.5-inc1; null: off
    random_erasing: float = number(least=0.0, most=1.0)
    crop_scale: list[float] = MISSING  # area of the random resized crop, least and most
    precision: Precision = Precision.auto
    optimizer: Optimizer = Optimizer.adamw
    momentum: float = number(0.9, least=0.0, below=1.0)  # of sgd and muon
    nesterov: bool = False  # sgd and muon look ahead by it
    decay_spares: Spared = Spared.vectors
    layer_decay: float | None = number(None, above=0.0, below=1.0)  # rate of a layer / that of the next; three blocks a layer
    clip_grad: float | None = number(None, above=0.0)  # bound of the gradient; null: none
    clip_mode: Clip = Clip.norm
    schedule: Schedule = Schedule.cosine
    milestones: list[float] = field(default_factory=lambda: [1 / 3, 2 / 3])  # of schedule=step, as shares of the training
    lr_factor: float = number(0.1, above=0.0, below=1.0)  # of schedule=step
    lr_power: float = number(1.0, above=0.0, most=10.0)  # of schedule=polynomial
    dropout: float = number(0.0, least=0.0, below=1.0)  # probability before the classifier
    initialisation: Initialisation = Initialisation.paper
    head_scale: float = number(1.0, above=0.0, most=1.0)  # a fresh classifier's weights are multiplied by it
    auto_augment: str | None = None  # timm's policies, or trivial: torchvision's TrivialAugmentWide; null: off
    color_jitter: float = number(0.0, least=0.0, most=1.0)  # of brightness, contrast and saturation
    interpolation: Interpolation = Interpolation.bicubic
    updates: int | None = number(None, least=1, most=100_000_000)  # length of the training in place of epochs
    warmup_updates: int | None = number(None, least=0, most=100_000_000)  # length of the warm-up in place of warmup_epochs
    warmup_start: float = number(0.0, least=0.0, below=1.0)  # share of the rate at which the warm-up starts
    layering: Layering = Layering.triples  # of layer_decay
    decay_layers: int = number(6, least=4, most=100)  # of the backbone, for layering=layers and stages; the head is one more
    short_sides: list[int] = field(default_factory=list)  # detection: shorter sides that are drawn from; empty: data.image_size
    crop_sides: list[int] = field(default_factory=list)  # detection: one half of the images has one of these first, is cropped,
    crop_range: list[int] = field(default_factory=list)  # to sides between these two, then as the other half; empty: none is
    jitter: list[float] = field(default_factory=list)  # least and most times data.image_size; large scale jittering: [0.1, 2.0]
    crop_size: int | None = number(None, least=32, most=4096)  # pixels a side, cut and padded; null: no crop in detection
    class_share: float | None = number(None, above=0.0, most=1.0)  # segmentation: most that one class has of a crop; null: any
    photometric: bool = False  # segmentation: brightness, contrast, saturation and hue at random

    def images(self, training_images: int) -> int:
        """Images of the whole training, repeated ones too."""
        return self.updates * self.batch_size if self.updates else self.epochs * training_images

    def length(self, updates_per_epoch: int) -> int:
        """Updates of the whole training."""
        return self.updates or self.epochs * updates_per_epoch

    def epochs_of(self, updates_per_epoch: int) -> int:
        """Epochs of the whole training, the last of them perhaps a part of one."""
        return self.epochs if self.updates is None else -(-self.updates // updates_per_epoch)

    def warmup(self, updates_per_epoch: int) -> int:
        """Updates of the warm-up; one at least comes after it."""
        asked = self.warmup_updates
        warmup = round(self.warmup_epochs * updates_per_epoch) if asked is None else asked
        return min(warmup, self.length(updates_per_epoch) - 1)

    @property
    def warmup_share(self) -> float:
        """Of the training, as far as it can be said without the number of images; 0 where it cannot."""
        if self.warmup_updates is not None:
            return self.warmup_updates / self.updates if self.updates else 0.0
        return self.warmup_epochs / self.epochs if self.updates is None else 0.0

    @property
    def loader_only(self) -> dict[str, Any]:
        """The settings that only timm's transforms know; empty where every pipeline makes the pictures."""
        return {key: getattr(self, key) for key, plain in LOADER_ONLY.items() if getattr(self, key) != plain}

    @property
    def images_at_once(self) -> int:
        """Images in one forward pass on one device."""
        return self.micro_batch or self.batch_size

    @property
    def at_once_key(self) -> str:
        """The setting that says how many images that are."""
        return "recipe.batch_size" if self.micro_batch is None else "recipe.micro_batch"

    @property
    def peak_lr(self) -> float:
        """The learning rate after warm-up: linear in the batch (Table 5: 4e-3 for 4096 images)."""
        return self.lr * self.batch_size / self.lr_batch


ROOMS = {"model": ModelConfig, "recipe": RecipeConfig, "data": DataConfig}
"""What a step or a row may change, and a study asks the worth of."""


class Logger(StrEnum):
    """Where curves go, beside the run's own files."""

    none = "none"
    wandb = "wandb"
    tensorboard = "tensorboard"  # event files in the run's folder, under tensorboard/


class WandbMode(StrEnum):
    """W&B's own words."""

    offline = "offline"
    online = "online"


@dataclass
class WandbConfig:
    """Where a run is shown on W&B."""

    mode: WandbMode = WandbMode.offline
    project: str = "roadmap"
    entity: str | None = None


class Compile(StrEnum):
    """What torch.compile translates."""

    auto = "auto"  # blocks, for a run on a GPU that is long enough to earn it back
    none = "none"
    blocks = "blocks"  # stem, downsampling and each residual block: equal blocks, seeds and steps share compiled code
    network = "network"
    graphs = "graphs"  # the network, replayed as CUDA graphs: for small networks, where launching kernels is the cost


class Device(StrEnum):
    """Where the arithmetic happens."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


@dataclass
class RuntimeConfig:
    """What changes how fast a run is and never what it computes."""

    device: Device = Device.auto
    threads: int | None = number(None, least=1, most=1024)  # CPU threads; null: torch's choice
    channels_last: bool = True
    compile: Compile = Compile.auto
    deterministic: bool = False  # on a GPU the same bits every time, slower; a CPU gives them anyway
    checkpoint_seconds: float = number(300.0, least=0.0)  # between checkpoints; also one at every stop
    evaluate_every: int = number(1, least=1, most=100_000)  # epochs between evaluations; the last epoch has one always
    keep_weights: bool = True  # write the trained weights beside the result
    keep_state: bool = False  # write the last training state too: weights, averaged weights, optimizer
    progress: bool = True


class EngineName(StrEnum):
    """What carries out the runs of a sweep."""

    local = "local"  # processes of this machine
    slurm = "slurm"  # jobs of a cluster
    ray = "ray"  # tasks of a Ray cluster, or of one that is started for the sweep


@dataclass
class EngineConfig:
    """Where the runs of a sweep are carried out and what each of them gets; nothing here changes a result."""

    name: EngineName = MISSING
    jobs: int | None = number(None, least=1, most=100_000)  # runs at a time; null: as many as there is room for
    gpus: float | None = number(None, least=0.0, most=64.0)  # of a run, on each node; 0.25: four share one; null: one if any
    cpus: int | None = number(None, least=1, most=1024)  # cores of a run, on each node; null: shared out evenly
    nodes: int = number(1, least=1, most=10_000)  # of a run; more than one through torchrun (slurm)
    processes: int | None = number(None, least=1, most=64)  # of a run, on each node; null: one a GPU
    retries: int = number(3, least=0, most=1000)  # of a run that was taken away: time limit, dead node or worker (slurm, ray)
    minutes: int = number(1440, least=1, most=1_000_000)  # until a job is stopped, saved and queued again (slurm)
    memory_gb: float | None = number(None, above=0.0)  # of a run, on each node (slurm, ray)
    partition: str | None = None  # slurm's words from here on
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    address: str | None = None  # of a Ray cluster; null: one of this machine's own, for this sweep


class StudyKind(StrEnum):
    """The rule that writes a study's rows from the roadmap's steps."""

    roadmap = "roadmap"  # each step on top of all before it, the paper's table
    leave_one_out = "leave_one_out"  # the roadmap's end, and the end without each change
    add_one_in = "add_one_in"  # the roadmap's start, and the start with each change alone
    orderings = "orderings"  # each change's worth averaged over orders in which it may come
    interactions = "interactions"  # the start with every change and every pair of changes
    equal_flops = "equal_flops"  # each step at the width at which it costs what the first costs
    steps_x_recipes = "steps_x_recipes"  # each step under each of `recipes`: what the recipe changes of its worth


@dataclass
class RowConfig:
    """A row of a study of one's own."""

    name: str = MISSING
    step: str = MISSING  # everything up to and including it
    set: list[str] = field(default_factory=list)  # on top: model.kernel_size=3, recipe.label_smoothing=0, data.hflip=0
    compare: str | None = None  # the row that it is compared with
    after: str | None = None  # the row from whose run, of the same seed, it starts
    label: str = ""
    group: str = ""


@dataclass
class StudyConfig:
    """A set of runs that answers one question."""

    name: str = "single"
    question: str = ""
    kind: StudyKind = StudyKind.roadmap
    rows: list[RowConfig] = field(default_factory=list)  # of one's own; then neither kind nor steps count
    references: list[str] = field(default_factory=list)  # timm models trained under the same recipe, beside the rows
    orders: int = number(16, least=4, most=10_000)  # of kind=orderings; an even number: each comes with its reverse
    steps: list[str] = field(default_factory=lambda: ["all"])  # by name; all: the paper's roadmap; training: that one
    recipes: list[str] = field(default_factory=list)  # of kind=steps_x_recipes: recipes, and steps that change the recipe
    start: str | None = None  # folder of a finished study: each run starts from the run of its own row and seed there
    published: str | None = None  # numbers beside ours: torchvision, or the path of a CSV; null: the paper's
    seeds: list[int] = field(default_factory=lambda: [0])
    row: str = ""  # of `rows`, that a single run is of: it names the run's folder; a sweep says it


FOUND_OUT = ("init_hash",)
"""Keys of an `Experiment` that are no settings: the program fills them in."""


@dataclass
class Experiment:
    """One run, completely described."""

    step: StepConfig = field(default_factory=StepConfig)
    reference: str | None = None  # a timm model that is trained in place of a step's network
    task: TaskConfig = field(default_factory=TaskConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    scale: ScaleConfig = field(default_factory=ScaleConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    study: StudyConfig = field(default_factory=StudyConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    parts: list[str] = field(default_factory=list)  # folders of --config-dir whose parts.py is run; on the command line only
    logger: Logger = Logger.none
    wandb: WandbConfig = field(default_factory=WandbConfig)
    init: str | None = None  # weights to start from: a run's folder, FILE.safetensors, FILE.pt or timm:NAME; null: from scratch
    after: str | None = None  # folder of the run whose weights this one starts from; a study's rows say it by its name
    init_hash: str = ""  # of the weights that `init` names; found out, never said
    seed: int = number(0, least=0, most=2**31 - 1)
    output: str = "experiments"  # runs are written to <output>/<study>/runs

    @property
    def row(self) -> str:
        """What the run is called: its row in a study of one's own rows, else its step."""
        return self.study.row or self.step.name

    @property
    def built_at(self) -> int | None:
        """The image size in pixels that the reference is built for; None of a backbone, which takes any."""
        return self.data.image_size if self.task.name == TaskName.classification else None


@cache
def entries(kind: Any = Experiment, prefix: str = "") -> dict[str, tuple[Field[Any], Any]]:
    """Every field of an `Experiment` and of its sections by its dotted key, with its type; a section before what it holds."""
    hints, found = get_type_hints(kind), dict[str, tuple[Field[Any], Any]]()
    for entry in dataclasses.fields(kind):
        found[prefix + entry.name] = entry, hints[entry.name]
        if dataclasses.is_dataclass(hints[entry.name]):
            found |= entries(hints[entry.name], f"{prefix}{entry.name}.")
    return found
