"""The keys of a clustering of target images, the same wherever one is made."""

from __future__ import annotations

from crossreid.configs.schema import Section, choice, flag, number


def cluster_keys(*, k1: int, eps: float) -> Section:
    """The section ``CLUSTER`` of a method.

    Args:
        k1: default number of neighbours of a reciprocal set.
        eps: default radius of DBSCAN.
    """
    keys = Section()
    keys.DISTANCE = choice("jaccard", "ca_jaccard")  # ca_jaccard: neighbours by camera
    keys.K1 = number(k1, 1, 1e4)  # jaccard: neighbours of a reciprocal set, the image itself included
    keys.K2 = number(6, 1, 1e4)  # jaccard: images that a membership is averaged over; 1: none
    keys.K1_INTRA = number(5, 1, 1e4)  # ca_jaccard: neighbours of the same camera
    keys.K1_INTER = number(20, 1, 1e4)  # ca_jaccard: neighbours of other cameras
    keys.K2_INTRA = number(2, 1, 1e4)  # ca_jaccard: images of the same camera averaged over; at first 3
    keys.K2_INTER = number(4, 1, 1e4)  # ca_jaccard: images of other cameras averaged over; at first 3
    keys.INDEX = choice("exact", "faiss")  # jaccard: search for neighbours; faiss: approximate
    keys.EPS = number(eps, 0.001, 0.999)  # radius of DBSCAN; grows by 0.05 up to 0.8 below two clusters
    keys.MIN_SAMPLES = number(4, 1, 1e4)  # images within the radius that make a core, itself included
    keys.CAMERA_NORM = flag(False)  # normalise features within each camera before clustering
    keys.DROP_SINGLE_CAMERA = flag(False)  # leave out clusters that one camera alone has seen
    return keys
