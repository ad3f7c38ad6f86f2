"""Every key: default, unit or allowed values. Defaults are the published recipe of the main method.

A YAML holds only what differs; ``configs.load`` checks types, ranges and contradictions before anything starts.
"""

from crossreid.configs.schema import (
    Section,
    choice,
    choices,
    dataset,
    datasets,
    flag,
    number,
    numbers,
    path,
    text,
)

_C = Section()
_C.NAME = text("")  # of the run and of its folders; empty: the YAML's file name
_C.METHOD = text("camera_aware")  # a module of engine/methods, or the import path of one of yours
_C.SEED = number(0, 0, 2**31 - 1)  # every random number comes from (SEED, step, rank)
_C.OUTPUT_DIR = path(".")  # holds checkpoints/NAME, logs/NAME, features/
_C.RESUME = path("")  # "": start anew | auto: checkpoints/NAME/last.pt if it is there | a checkpoint's path
_C.FIRST_STAGE = path(
    ""
)  # YAML (its path from this YAML) of the run whose last.pt is MODEL.WEIGHTS; trained first where it is missing
_C.IF_EXISTS = choice("refuse", "rename")  # a new run whose NAME has checkpoints; rename: NAME-2, -3, ...
_C.DETERMINISTIC = flag(
    False
)  # on GPUs: deterministic kernels, slower (on CPU runs are always deterministic)

_C.MODEL = Section()
_C.MODEL.BACKBONE = text("resnet50")  # a name of docs/backbones.md, timm:NAME, or an import path
_C.MODEL.LAST_STRIDE = choice(1, 2)  # of the last stage
_C.MODEL.PRETRAINED = path("imagenet")  # imagenet | none | path of a weight file of the backbone
_C.MODEL.POOLING = choice("auto", "avg", "gem")  # of maps; auto: the method's. ViT: class token, or plus GeM
_C.MODEL.PATCH_STRIDE = number(0, 0, 64)  # of a ViT, pixels between patches; 0: the patch's size, no overlap
_C.MODEL.DROP_PATH = number(0.0, 0, 0.9)  # probability to leave out a network's last block; rises from 0
_C.MODEL.SIE = flag(False)  # a ViT learns an embedding of each training camera: supervised, cluster_contrast
_C.MODEL.SIE_WEIGHT = number(3.0, 0, 100)  # of that embedding
_C.MODEL.WEIGHTS = path(
    ""
)  # a checkpoint whose weights the whole network starts from; goes before FIRST_STAGE
_C.MODEL.SYNC_BN = flag(False)  # batch norm over the images of all ranks (GPUs)
_C.MODEL.BN_GROUP = number(0, 0, 1e6)  # images a batch norm sees together; 0: all of a process
_C.MODEL.COMPILE = flag(
    False
)  # compile backbones and most losses: a minute at the start, needs a C++ compiler
_C.MODEL.CHECKPOINT_STAGES = number(0, 0, 4)  # stages using activation checkpointing, 0 to 4

_C.DATASETS = Section()
_C.DATASETS.ROOT = path("")  # folder of the datasets; empty: $REID_DATASETS, else ./data
_C.DATASETS.SOURCES = datasets(["duke"])  # labelled domains
_C.DATASETS.TARGET = dataset("market")  # unlabelled domain; identities are read for evaluation only
_C.DATASETS.ADAPT = flag(True)  # False: train on the sources alone, evaluate on the target
_C.DATASETS.SUBSET = choice("labeled", "detected")  # CUHK03-NP boxes
_C.DATASETS.TRAIN_VAL = flag(True)  # MSMT17: train with list_train + list_val
_C.DATASETS.TRAIN_ALL = flag(False)  # MSMT17: train with all four lists (126,441 images), as PAUL's stage 1
_C.DATASETS.STRICT = flag(False)  # counts that differ from the published ones: True error, False warning
_C.DATASETS.CACHE = choice("auto", "ram", "disk", "off")  # decoded images (decode in every epoch)
_C.DATASETS.CACHE_DIR = path("")  # empty: ~/.cache/crossreid/images
_C.DATASETS.ON_CORRUPT = choice("error", "skip")  # images that do not decode

_C.DATASETS.SYNTHETIC = Section()  # size of the built-in domains (synthetic:summer, :winter, :night, :indoor)
_C.DATASETS.SYNTHETIC.IDENTITIES = number(200, 2, 5000)  # for training
_C.DATASETS.SYNTHETIC.TEST_IDENTITIES = number(100, 2, 4999)  # for query and gallery
_C.DATASETS.SYNTHETIC.CAMERAS = number(6, 2, 32)  # an identity passes 3 to 5 of them
_C.DATASETS.SYNTHETIC.SEED = number(0, 0, 2**31 - 1)  # another seed draws other people and cameras
_C.DATASETS.SYNTHETIC.SIZE = numbers([128, 64], 32, 512, length=2)  # height and width in pixels

_C.INPUT = Section()
_C.INPUT.SIZE = numbers([256, 128], 16, 2048, length=2)  # height and width in pixels
_C.INPUT.INTERPOLATION = choice("bilinear", "bicubic")  # of the resizing to SIZE, in training and evaluation
_C.INPUT.MEAN = numbers([0.485, 0.456, 0.406], 0, 1, length=3)  # of RGB in 0..1
_C.INPUT.STD = numbers([0.229, 0.224, 0.225], 1e-6, 1e6, length=3)  # of RGB in 0..1
_C.INPUT.FLIP = number(0.5, 0, 1)  # probability
_C.INPUT.CROP = flag(True)  # random crop after padding
_C.INPUT.PAD = number(10, 0, 512)  # pixels on every side
_C.INPUT.PAD_VALUE = numbers([127], 0, 255, length=(1, 3))  # grey level, or RGB
_C.INPUT.CROP_AREA = numbers([1.0, 1.0], 0.01, 1, length=2)  # crop area, fraction of the image; [1, 1]: off
_C.INPUT.CROP_ASPECT = numbers([2.0, 3.0], 0.05, 20, length=2)  # height / width of that box
_C.INPUT.CROP_RAW = flag(False)  # cut that box from the file, then resize (as ECN): decodes in every epoch
_C.INPUT.ERASE = number(0.5, 0, 1)  # probability of random erasing
_C.INPUT.ERASE_AREA = numbers([0.02, 0.25], 0.0001, 1, length=2)  # erased area as a fraction of the image
_C.INPUT.ERASE_ASPECT = choice("log", "uniform")  # law of height / width in 0.3..3.3
_C.INPUT.ERASE_VALUE = numbers([0.0], -10, 10, length=(1, 3))  # fill after normalising, one or RGB; 0: MEAN
_C.INPUT.JITTER = numbers([0.0, 0.0, 0.0, 0.0], 0, 1, length=4)  # brightness, contrast, saturation, hue
_C.INPUT.JITTER_FIRST = flag(False)  # jitter before flip and crops: padding keeps its colour
_C.INPUT.CAMSTYLE = choice(
    "none", "statistics", "cyclegan", "stargan", "plain"
)  # target in other cameras' style

_C.DATALOADER = Section()
_C.DATALOADER.BATCH_SIZE = number(256, 2, 1e6)  # images a step in all: over all domains and all ranks
_C.DATALOADER.INSTANCES = number(
    0, 0, 1024
)  # images of an identity in a batch of P x K source images; 0: any images
_C.DATALOADER.ANCHORS = choice(
    "identities", "images"
)  # with INSTANCES: batches of random identities | of random images, each with others of its identity
_C.DATALOADER.OTHER_CAMERAS = flag(True)  # with INSTANCES: prefer images of an identity from other cameras
_C.DATALOADER.EPOCH = choice(
    "largest", "source", "target", "steps"
)  # one pass over it; steps: ITERS_PER_EPOCH
_C.DATALOADER.ROUND_BATCH = flag(False)  # round BATCH_SIZE where the processes do not divide it, and say so
_C.DATALOADER.ITERS_PER_EPOCH = number(0, 0, 1e9)  # steps an epoch; 0: as EPOCH says
_C.DATALOADER.WORKERS = number(4, 0, 256)  # decoding processes, used with DATASETS.CACHE off

_C.SOLVER = Section()
_C.SOLVER.OPTIMIZER = choice("sgd", "adam", "adamw")
_C.SOLVER.LR = number(0.01, 0, 1000)  # of the backbone
_C.SOLVER.NEW_LR = number(0.05, 0, 1000)  # of randomly initialised layers
_C.SOLVER.LAYER_DECAY = number(
    1.0, 0.1, 1
)  # a layer of the backbone learns at this share of the next one's rate
_C.SOLVER.MOMENTUM = number(0.9, 0, 1)  # sgd
_C.SOLVER.NESTEROV = flag(False)  # sgd
_C.SOLVER.WEIGHT_DECAY = number(5e-4, 0, 10)  # of all parameters
_C.SOLVER.EPOCHS = number(70, 1, 1e6)  # in all
_C.SOLVER.SCHEDULER = choice("multistep", "cosine")  # multistep | cosine, by epoch
_C.SOLVER.STEPS = numbers([60], 1, 1e6, rising=True)  # multistep: epochs at which LR is multiplied by GAMMA
_C.SOLVER.GAMMA = number(0.1, 0, 1)  # multistep: factor at each of them
_C.SOLVER.WARMUP_EPOCHS = number(0, 0, 1e6)  # linear
_C.SOLVER.WARMUP_FACTOR = number(0.01, 0, 1)  # fraction of the rate that the warm-up starts from
_C.SOLVER.GRAD_CLIP = number(0.0, 0, 1e9)  # max global gradient norm; 0: off
_C.SOLVER.ACCUMULATE = number(1, 1, 1e4)  # steps whose mean gradient makes one step of the optimizer
_C.SOLVER.TF32 = flag(
    True
)  # GPUs: float32 convolutions in training in TF32; losses, memories and evaluation never
_C.SOLVER.AMP = choice("auto", "float32", "float16", "bfloat16")  # auto: the fastest that the device has

_C.TEST = Section()
_C.TEST.PERIOD = number(10, 0, 1e6)  # epochs between evaluations on the target; 0: only after the last epoch
_C.TEST.AT_START = flag(True)  # evaluate before the first step, too
_C.TEST.AP = choice("rectangular", "trapezoidal")  # average precision (differ by 0.5-1.1 mAP)
_C.TEST.RANKS = numbers([1, 5, 10], 1, 1e6)  # of the CMC curve
_C.TEST.METRIC = choice("cosine", "euclidean")
_C.TEST.BATCH_SIZE = number(256, 1, 1e6)  # images a forward pass on each rank
_C.TEST.FLIP = flag(False)  # add the features of the mirrored images
_C.TEST.AQE = number(0, 0, 1e4)  # gallery features averaged into each query; 0: off
_C.TEST.CAMERA_NORM = flag(False)  # normalise each camera's features by the gallery's images of it
_C.TEST.ROC = flag(False)  # true positive rate at false positive rates 1e-4, 1e-3, 1e-2 (eval.py)
_C.TEST.CAMERA_PAIRS = flag(False)  # a table by query camera and gallery camera (eval.py)
_C.TEST.CHUNK_MB = number(256, 1, 1e6)  # memory for a block of scores, MB
_C.TEST.CRITERIA = flag(True)  # where the target is trained on: label-free criteria of its training images
_C.TEST.CLUSTER = Section()  # the clustering that they judge
_C.TEST.CLUSTER.DISTANCE = choice("jaccard", "ca_jaccard")  # ca_jaccard: camera-aware
_C.TEST.CLUSTER.EPS = number(0.6, 0.01, 0.99)  # radius of DBSCAN
_C.TEST.CLUSTER.MIN_SAMPLES = number(4, 1, 1e4)  # images within EPS of a core image, itself among them
_C.TEST.CLUSTER.K1 = number(30, 1, 1e4)  # neighbours of a reciprocal set, the image itself included
_C.TEST.CLUSTER.K2 = number(6, 1, 1e4)  # neighbours that a membership is averaged over; 1: none
_C.TEST.CLUSTER.INDEX = choice("exact", "faiss")  # search for neighbours; faiss: approximate, needs faiss-cpu
_C.TEST.RERANK = Section()  # k-reciprocal re-ranking (eval.py --rerank)
_C.TEST.RERANK.K1 = number(20, 1, 1e4)  # neighbours of a reciprocal set
_C.TEST.RERANK.K2 = number(6, 1, 1e4)  # neighbours that a membership is averaged over; 1: none
_C.TEST.RERANK.LAMBDA = number(0.3, 0, 1)  # weight of the original distance, 0..1

_C.CHECKPOINT = Section()
_C.CHECKPOINT.PERIOD = number(1, 1, 1e6)  # epochs
_C.CHECKPOINT.SELECT = choice(
    "last", "silhouette", "stability", "camera_entropy", "density", "source_guided", "oracle"
)  # the run's result: last.pt, selected.pt by a label-free criterion, or best.pt, which the target's labels choose
_C.CHECKPOINT.N_SAVED = number(0, 0, 1e6)  # numbered checkpoints to keep beside last.pt and best.pt

_C.LOG = Section()
_C.LOG.PERIOD = number(50, 1, 1e9)  # steps between lines; losses are read from the device only then
_C.LOG.TENSORBOARD = flag(True)  # write event files to logs/NAME/tensorboard
_C.LOG.TRACKERS = choices("wandb", "mlflow")  # also record there (needs the extra trackers)
_C.LOG.RANK_LIST = number(8, 0, 100)  # queries drawn with their top 10 after training; 0: no picture
_C.LOG.REPORT = flag(False)  # write logs/NAME/report.html at the end (needs the extra report)
