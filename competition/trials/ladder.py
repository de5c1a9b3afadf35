"""The rungs of the study and its budgets, as tables."""

from dataclasses import dataclass

from competition.models.hyperresnet import FAMILY

ALL = ("quick", "default", "full")


@dataclass(frozen=True)
class Effort:
    """What a kind of rung takes in a budget: recipe, folds (None: all), keys of the recipe.

    most   pixels of the longer side from which on the network sees this many a side in place of all; 0: all
    """

    recipe: str
    folds: str | None = None
    keys: tuple[str, ...] = ()
    most: int = 0


@dataclass(frozen=True)
class Rung:
    """One system of the report.

    model may hold {backbone}, keys {given} (a weight for the rarest class) and {count} (of copies): study_rungs.py fills them in.
    """

    name: str
    reference: str  # the rung that it is compared with
    report: str  # what the original report found
    kind: str = "head"  # a key of BUDGETS[budget]
    model: str = "{backbone}"
    # of the recipe; of TTA its views; of an ensemble how it weighs, and how many; of a soup its rungs
    keys: tuple[str, ...] = ()
    how: str = "train"  # a key of study_rungs.HOW
    budgets: tuple[str, ...] = ALL


PLAIN = ("augment=", "views=identity,hflip")
SHIFTS = "augment=hflip,vflip,shift"
SECOND = (SHIFTS, "augment_phases=full", "views=identity,hflip")
SMALL, VIEW = "image_size=96", "views=identity"
BUDGETS = {
    # the sample competition, 2 cores, 10 minutes; with the first layers as they are two epochs tell more, sooner
    "quick": {
        "pixels": Effort("quick", keys=("epochs=4",), most=96),
        "scratch": Effort("quick", "0", ("epochs=8",), most=96),
        "head": Effort("quick", keys=(SMALL,)),
        "coarse": Effort("quick", keys=("image_size=64", VIEW)),
        "batch": Effort("quick", keys=(SMALL,)),
        "tuned": Effort("best", "0", ("image_size=64", "frozen_share=0.6", "epochs=2")),
        "report": Effort("report", "0", ("image_size=64", "frozen_copies=2", "epochs=2", "patience=0")),
        "best": Effort("best", "0", ("least_size=96", "epochs=2"), most=96),
    },
    # some 3000 images of 96 x 96 pixels, 2 cores, 75 minutes
    "default": {
        "pixels": Effort("quick", keys=("epochs=4",), most=96),
        "scratch": Effort("quick", "0", most=96),
        "search": Effort("quick", "0", ("image_size=32", "epochs=4")),
        "head": Effort("quick"),
        "coarse": Effort("quick", keys=(SMALL, VIEW)),
        "batch": Effort("quick"),
        "tuned": Effort("best", "0", (SMALL, "epochs=4")),
        "report": Effort("report", "0", (SMALL, "frozen_copies=4", "epochs=6", "patience=0")),
        "best": Effort("best", "0", ("epochs=5",), most=160),
        "gan": Effort("quick", "0", ("synthetic=50",)),
    },
    # a GPU: nothing is cut down
    "full": {
        "pixels": Effort("quick"),
        "scratch": Effort("quick", keys=("epochs=60",)),
        "search": Effort("quick", "0", ("epochs=60",)),
        "head": Effort("quick"),
        "coarse": Effort("quick"),
        "batch": Effort("best"),
        "tuned": Effort("best"),
        "report": Effort("report"),
        "best": Effort("best"),
        "gan": Effort("quick", keys=("synthetic=100",)),
    },
}
GAN_KEYS = {"default": ["epochs=22"], "full": []}  # of the GANs themselves
TUNER = {"default": {"SPACE": "version=v1,v2"}, "full": {"TRIALS": "10"}}
LADDER = (
    Rung("zero inputs", "", "worse", how="zeros"),
    Rung("baseline", "zero inputs", "25 %", "pixels", "baseline"),
    Rung("scratch", "baseline", "77 % on validation", "scratch", "scratch"),
    Rung(
        "scratch, as long",
        "baseline",
        "77 % on validation",
        "search",
        "scratch",  # as one trial of the tuner
        budgets=("default", "full"),
    ),
    Rung(
        "hyperresnet",
        "scratch, as long",
        "no major gain, slow",
        "search",
        FAMILY,
        how="tune",
        budgets=("default", "full"),
    ),
    # transfer learning, the backbone frozen
    Rung("head", "baseline", "VGG16 and ResNet50 best on validation, ResNet50 on test"),
    Rung("head, one view", "head", "", "coarse"),  # as few pixels as whatever trains all layers has
    Rung("head vgg16", "head, one view", "best on validation", "coarse", "vgg16"),
    Rung("head vgg16_nopool", "head vgg16", "the full VGG16 is better", "coarse", "vgg16_nopool"),
    Rung("head resnet50", "head", "best on validation and test", model="resnet50", budgets=("default", "full")),
    Rung("head mobilenet", "head", "in the ensemble", model="mobilenet"),
    Rung("head efficientnet_lite1", "head", "not tried", model="efficientnet_lite1"),
    Rung("head efficientnet_lite2", "head", "not tried", model="efficientnet_lite2"),
    Rung("layers 512, 256", "head", "no gain", keys=("head=[512, 256]",)),
    Rung("batch 64", "", "the best on test", "batch", keys=("batch_size=64",)),
    *(
        Rung(
            f"batch {size}",
            "batch 64",
            "small ones win on validation, 64 on test",
            "batch",
            keys=(f"batch_size={size}",),
        )
        for size in (4, 8, 16, 32)
    ),
    # rare classes
    Rung("weights balanced", "head", "Species1 65 to 71 %, overall lower", keys=("class_weight=balanced",)),
    Rung("weights given", "head", "Species1 65 to 71 %, overall lower", keys=("class_weight={given}",)),
    Rung(
        "copies of rare classes",
        "head",
        "90 % on validation, 5 points lost on test",
        keys=("oversample_count={count}", "oversample_augment=hflip,vflip,affine,light"),
    ),
    Rung("double model", "head", "92 % and 90 % alone, 84 % merged", how="double"),
    Rung(
        "generated images",
        "head",
        "no useful image in the time they had",
        "gan",
        how="gan",
        budgets=("default", "full"),
    ),
    # ensembles
    Rung("mean of 2", "head", "+3 points", keys=("mean", "2"), how="blend"),
    Rung("mean of 3", "head", "+3 points", keys=("mean", "3"), how="blend"),
    Rung("weighted, of 2", "head", "+3 points", keys=("greedy", "2"), how="blend"),
    Rung("weighted, of 3", "head", "+3 points", keys=("greedy", "3"), how="blend"),
    Rung("distilled", "head", "not tried", how="distil", budgets=("default", "full")),
    # all layers train
    Rung("all layers", "head, one view", "", "tuned", keys=PLAIN),
    Rung("flips, shifts: second phase", "all layers", "a boost", "tuned", keys=SECOND),
    Rung(
        "flips, shifts: both phases",
        "flips, shifts: second phase",
        "a boost, higher than in one",
        "tuned",
        keys=(SHIFTS, "frozen_copies=4", "views=identity,hflip"),
        budgets=("default", "full"),
    ),
    *(
        Rung(name, "flips, shifts: second phase", found, "tuned", keys=(*SECOND, *keys))
        for name, found, keys in (
            ("cutmix", "smaller gap, no gain", ("cutmix=0.5",)),
            ("mixup", "smaller gap, no gain", ("mixup=0.5",)),
            ("fmix", "smaller gap, no gain", ("fmix=0.5",)),
            ("randaugment", "smaller gap, no gain", ("augment=hflip,vflip,shift,randaugment",)),
            ("gridmask", "smaller gap, no gain", ("augment=hflip,vflip,shift,gridmask",)),
            ("random erasing", "smaller gap, no gain", ("augment=hflip,vflip,shift,erase",)),
        )
    ),
    Rung(
        "double model, cutmix, weights",
        "cutmix",
        "not tried",
        "tuned",
        how="double",
        budgets=("default", "full"),
        keys=(*SECOND, "cutmix=0.5", "class_weight=balanced"),
    ),
    Rung(
        "mixup, but last epoch",
        "mixup",
        "not tried",
        "tuned",
        keys=(*SECOND, "mixup=0.5", "plain_epochs=1"),
        budgets=("default", "full"),
    ),
    *(
        Rung(key, "flips, shifts: second phase", "not tried", "tuned", keys=(*SECOND, key), budgets=("default", "full"))
        for key in ("ema=0.99", "layer_decay=0.8", "label_smoothing=0", "progressive=0.5")
    ),
    Rung(
        "soup",
        "flips, shifts: second phase",
        "not tried",
        "tuned",
        how="soup",
        budgets=("full",),
        keys=("flips, shifts: second phase", "random erasing", "label_smoothing=0"),
    ),
    # the report's best model, and ours
    Rung("report, first phase", "head, one view", "", "report", keys=("epochs=0",)),
    Rung("report", "report, first phase", "90 % on validation, 86.8 and 85.3 % hidden", "report"),
    Rung("report vgg16", "report", "best on validation", "report", "vgg16", budgets=("full",)),
    Rung("report resnet50", "report", "best on validation and test", "report", "resnet50", budgets=("full",)),
    Rung("best", "report", "not tried", "best"),
    Rung("TTA, mirrored", "best", "marginal", keys=("identity", "hflip"), how="views"),
    Rung("TTA, all views", "best", "marginal", keys=("all",), how="views"),
)

# What makes a comparison less than fair.
SHORT = (
    "`best` differs from `report` in pixels, epochs and rates, not in one thing, and neither trains as long as "
    "its recipe says: `report` would for about 120 epochs at 1e-5."
)
NOTES = {
    "quick": f"{SHORT} Whatever trains all layers does so for two epochs on a fold. "
    "What is left out would take half a minute to some minutes each, of ten.",
    "default": f"{SHORT} VGG16's heads have one view of 96 pixels, as `head, one view`; the others' two of 160.",
    "full": "`report` keeps its best epoch on the fold that it is scored on (patience), the others their last.",
}

# Without BatchNormalization nothing undoes what a step of AdamW, as long for small weights as for large ones, does to a
# layer's scale, and over 13 layers that multiplies: at the 1.5e-3 of `best` VGG16's loss goes to 4.7 in its first
# epoch, after which it says the same of every image and stays at ln(classes). At 1e-4 it learns.
RATES = {"vgg16": "rate=1e-4", "vgg16_nopool": "rate=1e-4", "vgg19": "rate=1e-4"}
TEACHERS = 3
MEMBERS = ("head", "head mobilenet", "head vgg16", "head efficientnet_lite1", "head efficientnet_lite2")
