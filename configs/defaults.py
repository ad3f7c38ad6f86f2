"""Every key: default, unit or allowed values. Defaults are the published recipe of the main method.

A YAML holds only what differs; ``configs.load`` checks types, ranges and contradictions before anything starts.
"""

from yacs.config import CfgNode as CN

_C = CN()
_C.NAME = ""  # of the run and of its folders; empty: the YAML's file name
_C.METHOD = "camera_aware"  # one of engine.methods.table.METHODS
_C.SEED = 0  # every random number comes from (SEED, step, rank)
_C.OUTPUT_DIR = "."  # holds checkpoints/NAME, logs/NAME, features/
_C.RESUME = ""  # "": start anew | auto: checkpoints/NAME/last.pt if it is there | a checkpoint's path
_C.DETERMINISTIC = False  # on GPUs: deterministic kernels, slower (on CPU runs are always deterministic)

_C.MODEL = CN()
_C.MODEL.BACKBONE = "resnet50"  # tiny, resnet18/34/50/101, the last two with _ibn_a appended
_C.MODEL.LAST_STRIDE = 1  # stride of the last stage, 1 or 2
_C.MODEL.PRETRAINED = "imagenet"  # imagenet | none | path of a weight file of the backbone
_C.MODEL.WEIGHTS = ""  # a checkpoint whose weights the whole network starts from
_C.MODEL.SYNC_BN = False  # batch norm over the images of all ranks (GPUs)
_C.MODEL.COMPILE = False  # compile backbones and most losses: a minute at the start, needs a C++ compiler
_C.MODEL.CHECKPOINT_STAGES = 0  # first stages, 0 to 4, that are computed again backwards to save memory

_C.DATASETS = CN()
_C.DATASETS.ROOT = ""  # folder of the datasets; empty: $REID_DATASETS, else ./data
_C.DATASETS.SOURCES = ["duke"]  # labelled domains
_C.DATASETS.TARGET = "market"  # unlabelled domain; identities are read for evaluation only
_C.DATASETS.ADAPT = True  # False: train on the sources alone, evaluate on the target
_C.DATASETS.SUBSET = "labeled"  # CUHK03-NP boxes: labeled | detected
_C.DATASETS.TRAIN_VAL = True  # MSMT17: train with list_train + list_val
_C.DATASETS.STRICT = False  # counts that differ from the published ones: True error, False warning
_C.DATASETS.CACHE = "auto"  # decoded images: auto | ram | disk | off (decode in every epoch)
_C.DATASETS.CACHE_DIR = ""  # empty: ~/.cache/crossreid/images
_C.DATASETS.ON_CORRUPT = "error"  # images that do not decode: error | skip

_C.DATASETS.SYNTHETIC = CN()  # size of the embedded domains (synthetic:summer, :winter, :night, :indoor)
_C.DATASETS.SYNTHETIC.IDENTITIES = 200  # for training
_C.DATASETS.SYNTHETIC.TEST_IDENTITIES = 100  # for query and gallery
_C.DATASETS.SYNTHETIC.CAMERAS = 6  # an identity passes 3 to 5 of them
_C.DATASETS.SYNTHETIC.SEED = 0  # another seed draws other people and cameras
_C.DATASETS.SYNTHETIC.SIZE = [128, 64]  # height and width in pixels

_C.INPUT = CN()
_C.INPUT.SIZE = [256, 128]  # height and width in pixels
_C.INPUT.MEAN = [0.485, 0.456, 0.406]  # of RGB in 0..1
_C.INPUT.STD = [0.229, 0.224, 0.225]  # of RGB in 0..1
_C.INPUT.FLIP = 0.5  # probability
_C.INPUT.CROP = True  # random crop after padding
_C.INPUT.PAD = 10  # pixels on every side
_C.INPUT.PAD_VALUE = 127  # grey level 0..255
_C.INPUT.CROP_AREA = [1.0, 1.0]  # share of the image that a box keeps, resized back; [1, 1]: whole images
_C.INPUT.CROP_ASPECT = [2.0, 3.0]  # height / width of that box
_C.INPUT.ERASE = 0.5  # probability of random erasing
_C.INPUT.ERASE_AREA = [0.02, 0.25]  # share of the image
_C.INPUT.JITTER = [0.0, 0.0, 0.0, 0.0]  # brightness, contrast, saturation, hue
_C.INPUT.CAMSTYLE = "none"  # target in other cameras' style: none | statistics | cyclegan | stargan | plain

_C.DATALOADER = CN()
_C.DATALOADER.BATCH_SIZE = 256  # images a step in all: over all domains and all ranks
_C.DATALOADER.INSTANCES = 0  # images of an identity in a batch of P x K source images; 0: any images
_C.DATALOADER.OTHER_CAMERAS = True  # with INSTANCES: prefer images of an identity from other cameras
_C.DATALOADER.ITERS_PER_EPOCH = 0  # steps an epoch; 0: one pass over the largest domain
_C.DATALOADER.WORKERS = 4  # decoding processes, used with DATASETS.CACHE off

_C.SOLVER = CN()
_C.SOLVER.OPTIMIZER = "sgd"  # sgd | adam | adamw
_C.SOLVER.LR = 0.01  # of the backbone
_C.SOLVER.NEW_LR = 0.05  # of layers that start from random weights
_C.SOLVER.MOMENTUM = 0.9  # sgd
_C.SOLVER.NESTEROV = False  # sgd
_C.SOLVER.WEIGHT_DECAY = 5e-4  # of all parameters
_C.SOLVER.EPOCHS = 70  # in all
_C.SOLVER.SCHEDULER = "multistep"  # multistep | cosine, by epoch
_C.SOLVER.STEPS = [60]  # multistep: epochs after which the rate falls
_C.SOLVER.GAMMA = 0.1  # multistep: factor at each of them
_C.SOLVER.WARMUP_EPOCHS = 0  # linear
_C.SOLVER.WARMUP_FACTOR = 0.01  # share of the rate that the warm-up starts from
_C.SOLVER.GRAD_CLIP = 0.0  # largest length of the gradient of all parameters together; 0: any
_C.SOLVER.ACCUMULATE = 1  # steps whose mean gradient makes one step of the optimizer
_C.SOLVER.TF32 = True  # GPUs: float32 convolutions in training in TF32; losses, memories and evaluation never
_C.SOLVER.AMP = "float16"  # arithmetic of the network: float32 | float16 (GPU, with loss scaling) | bfloat16

_C.CAMERA_AWARE = CN()  # Luo et al., ECCV 2020; epochs count from 1 and after the source-only ones
_C.CAMERA_AWARE.SOURCE_EPOCHS = 0  # first train this many epochs on the source alone (then: direct transfer)
_C.CAMERA_AWARE.SCALE = 10.0  # inverse temperature of the softmax over the memory
_C.CAMERA_AWARE.EPS = 0.8  # neighbours are the rows above EPS times the largest similarity
_C.CAMERA_AWARE.NEIGHBOR_MODE = "camera_aware"  # camera_aware | camera_agnostic
_C.CAMERA_AWARE.INTRA_WEIGHT = 1.0  # of the intra-camera loss
_C.CAMERA_AWARE.INTRA_START = 11  # first epoch of the intra-camera loss
_C.CAMERA_AWARE.INTER_WEIGHT = 0.5  # of the inter-camera loss
_C.CAMERA_AWARE.INTER_START = 31  # first epoch of the inter-camera loss
_C.CAMERA_AWARE.AGNOSTIC_WEIGHT = 0.1  # of the camera-agnostic loss
_C.CAMERA_AWARE.AGNOSTIC_START = 11  # first epoch of the camera-agnostic loss
_C.CAMERA_AWARE.MIXUP = True  # cross-domain mixup
_C.CAMERA_AWARE.MIXUP_ALPHA = 0.6  # lambda ~ Beta(ALPHA, ALPHA)
_C.CAMERA_AWARE.MIXUP_START = 2  # first epoch of the mixup
_C.CAMERA_AWARE.KEEP = 0.6  # share of a memory row that an update keeps; 0 in epoch 1
_C.CAMERA_AWARE.MEMORY_DTYPE = "float32"  # float16 halves the memory: similarities 5e-4 off
_C.CAMERA_AWARE.MEMORY_INIT = "first"  # first: rows take the first feature in epoch 1 | pass: filled before

_C.ECN = CN()  # Zhong et al., CVPR 2019; epochs count from 1 and after the source-only ones
_C.ECN.SOURCE_EPOCHS = 0  # first train this many epochs on the source alone (then: direct transfer)
_C.ECN.LAMBDA = 0.3  # weight of the invariance loss; the source's cross-entropy has 1 - LAMBDA
_C.ECN.TEMPERATURE = 0.05  # of the softmax over the memory
_C.ECN.NEIGHBORS = 6  # k of the neighbourhood-invariance; 0: exemplar-invariance alone
_C.ECN.NEIGHBOR_START = 6  # first epoch of the neighbourhood-invariance
_C.ECN.ALPHA = 0.01  # a memory row keeps ALPHA * (epoch - 1) of itself at an update, at most 1
_C.ECN.MMD = False  # align source and target features by maximum mean discrepancy
_C.ECN.LAMBDA_EXT = 0.33  # weight of that loss
_C.ECN.MMD_SIGMAS = [1.0, 2.0, 10.0]  # widths of its kernels, on features of length 1
_C.ECN.EMBEDDING = 4096  # numbers of a memory row
_C.ECN.DROPOUT = 0.5  # probability, of the embedding in both branches
_C.ECN.FROZEN_STAGES = 3  # untrained, batch norm in evaluation mode: 1 stem, 2 layer1 too, 3 layer2 too
_C.ECN.JOINT_BATCH = False  # batch norm sees both domains together; false: each by itself, as published

_C.DISENTANGLE = CN()  # identity/pose encoders and a decoder, after ARN (Li et al., CVPR-W 2018)
_C.DISENTANGLE.SOURCE_EPOCHS = 0  # first train this many epochs on the source alone (then: direct transfer)
_C.DISENTANGLE.VARIANT = "pose"  # pose: identity and pose encoder | arn: shared and private encoders
_C.DISENTANGLE.POOL = "max"  # feature maps to features: max | avg
_C.DISENTANGLE.DECODER_WIDTHS = [2048, 512, 256, 64]  # channels of its stages; a short one takes the last
_C.DISENTANGLE.JITTER = True  # the pose encoder sees images with permuted and negated channels
_C.DISENTANGLE.NEGATE = 0.6667  # probability that they are negated
_C.DISENTANGLE.CLS_WEIGHT = 1.0  # of the source identities' cross-entropy
_C.DISENTANGLE.REC_WEIGHT = 0.1  # of the reconstruction
_C.DISENTANGLE.DIF_WEIGHT = 0.1  # of the orthogonality of identity and pose
_C.DISENTANGLE.APP_WEIGHT = 1.0  # of the distance between identity features of one person
_C.DISENTANGLE.CTR_WEIGHT = 0.1  # of the contrastive loss over all pairs of a source batch
_C.DISENTANGLE.MMD_WEIGHT = 0.1  # of the discrepancy between the domains' identity features
_C.DISENTANGLE.ORTHOGONALITY = "cosine"  # cosine: squared cosine | original: summed inner product
_C.DISENTANGLE.CTR_MARGIN = 2.0  # on the squared distance divided by the number of features
_C.DISENTANGLE.MMD_SIGMAS = [1.0, 2.0, 10.0]  # widths of the discrepancy's kernels
_C.DISENTANGLE.MMD_UNIT = True  # on features of length 1; false: as they are, as published
_C.DISENTANGLE.MASK_DIR = ""  # foreground: MASK_DIR/<dataset>/<image>.png, grey; empty: whole images
_C.DISENTANGLE.GRID = 6  # images of each domain in the pictures drawn at every evaluation; 0: no pictures

_C.M3L = CN()  # Zhao et al., CVPR 2021: several labelled sources, an unseen target
_C.M3L.META = True  # False: joint training on all sources with the same losses, no meta-learning
_C.M3L.PLAIN_EPOCHS = 0  # first train this many epochs without meta-learning (backbones from random weights)
_C.M3L.META_GRADIENT = "original"  # original (as published): through the inner gradient alone | full
_C.M3L.META_TEST_WEIGHT = 1.0  # of the meta-test loss in the outer step
_C.M3L.INNER_RATE = 1.0  # inner step's rate as a share of the current outer one
_C.M3L.MEMORY_WEIGHT = 1.0  # of the cross-entropy over the identity memory
_C.M3L.TEMPERATURE = 0.05  # of that softmax
_C.M3L.KEEP = 0.2  # share of a memory row that an update keeps
_C.M3L.TRIPLET_WEIGHT = 1.0  # of the batch-hard triplet loss
_C.M3L.TRIPLET_MARGIN = 0.3  # in units of the Euclidean distance of pooled features
_C.M3L.METABN = True  # mix meta-test features with draws from the meta-train domains' statistics
_C.M3L.METABN_SCALE = "variance"  # what the draws take as standard deviation: variance (as published) | std
_C.M3L.METABN_ALPHA = 1.0  # share of the draws ~ Beta(ALPHA, ALPHA)
_C.M3L.RECOMPUTE = False  # repeat the meta-train passes, keep no graphs of them: less memory, more time

_C.CENTRAL_FEATURE = CN()  # patch features in two stages, after PAUL (Yang et al., CVPR 2019)
_C.CENTRAL_FEATURE.STAGE = "pretrain"  # pretrain: one source | unsupervised: target, from MODEL.WEIGHTS
_C.CENTRAL_FEATURE.PATCHES = 6  # windows an image; must divide the height of the feature map
_C.CENTRAL_FEATURE.PATCH_DIM = 256  # numbers of a patch's feature
_C.CENTRAL_FEATURE.EMBED_DIM = 128  # pretrain: numbers a patch gives to the triplet loss
_C.CENTRAL_FEATURE.TRIPLET_WEIGHT = 0.1  # pretrain: beside the sum of the patches' cross-entropies
_C.CENTRAL_FEATURE.TRIPLET_MARGIN = 1.0  # pretrain: on embeddings of length 1
_C.CENTRAL_FEATURE.GENERATOR_LR = 1e-5  # pretrain: rate of the patch generator
_C.CENTRAL_FEATURE.GENERATOR_START = 25  # pretrain: first epoch in which it trains
_C.CENTRAL_FEATURE.GENERATOR_END = 39  # pretrain: last one; below START: never
_C.CENTRAL_FEATURE.LOSS = "pedal"  # of patches: pedal (PAUL's) | central (our reading of the title)
_C.CENTRAL_FEATURE.PATCH_WEIGHT = 2.0  # of that loss
_C.CENTRAL_FEATURE.SCALE = 15.0  # inverse temperature on squared distances; 15 for Market, 5 for Duke
_C.CENTRAL_FEATURE.NEIGHBORS = 10  # k nearest memory rows of a patch
_C.CENTRAL_FEATURE.KEEP = 0.9  # share of a memory row (of patches, of images) that an update keeps
_C.CENTRAL_FEATURE.IMAGE_WEIGHT = 1.0  # of the image-level loss
_C.CENTRAL_FEATURE.IMAGE_MARGIN = 2.0  # on distances of concatenated patch features, 0 to 2 sqrt(PATCHES)
_C.CENTRAL_FEATURE.MAX_RANK = 15  # images of the batch that cyclic ranking tries as the hard negative
_C.CENTRAL_FEATURE.NEAREST = 3  # a negative's own nearest must not contain the anchor
_C.CENTRAL_FEATURE.VIEW_JITTER = [0.2, 0.2, 0.2, 0.1]  # second view: brightness, contrast, saturation, hue
_C.CENTRAL_FEATURE.VIEW_ROTATION = 10.0  # second view: degrees to either side
_C.CENTRAL_FEATURE.VIEW_AREA = [0.7, 0.95]  # second view: share of the image that the crop keeps
_C.CENTRAL_FEATURE.PICTURES = 8  # images drawn with their patch windows at every evaluation; 0: none

_C.TEST = CN()
_C.TEST.PERIOD = 10  # epochs between evaluations on the target; 0: only after the last epoch
_C.TEST.AT_START = True  # evaluate before the first step, too
_C.TEST.AP = "rectangular"  # average precision: rectangular | trapezoidal (differ by 0.5-1.1 mAP)
_C.TEST.RANKS = [1, 5, 10]  # of the CMC curve
_C.TEST.METRIC = "cosine"  # cosine | euclidean
_C.TEST.BATCH_SIZE = 256  # images a forward pass on each rank
_C.TEST.FLIP = False  # add the features of the mirrored images
_C.TEST.AQE = 0  # gallery images that join each query (average query expansion); 0: none
_C.TEST.ROC = False  # true positive rate at false positive rates 1e-4, 1e-3, 1e-2 (eval.py)
_C.TEST.CAMERA_PAIRS = False  # a table by query camera and gallery camera (eval.py)
_C.TEST.CHUNK_MB = 256  # memory for a block of scores, MB
_C.TEST.RERANK = CN()  # k-reciprocal re-ranking (eval.py --rerank)
_C.TEST.RERANK.K1 = 20  # neighbours of a reciprocal set
_C.TEST.RERANK.K2 = 6  # neighbours that a membership is averaged over; 1: none
_C.TEST.RERANK.LAMBDA = 0.3  # weight of the original distance, 0..1

_C.CHECKPOINT = CN()
_C.CHECKPOINT.PERIOD = 1  # epochs
_C.CHECKPOINT.N_SAVED = 0  # numbered checkpoints to keep beside last.pt and best.pt

_C.LOG = CN()
_C.LOG.PERIOD = 50  # steps between lines; losses are read from the device only then
_C.LOG.TENSORBOARD = True  # write event files to logs/NAME/tensorboard
_C.LOG.RANK_LIST = 8  # queries drawn with their top 10 after training; 0: no picture
