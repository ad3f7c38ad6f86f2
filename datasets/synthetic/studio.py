"""Takes the pictures of one domain; every picture depends on the seed and its own keys alone."""

from __future__ import annotations

from collections.abc import Iterator

from .camera import Camera, make_camera
from .domains import DOMAINS
from .person import generator, make_person
from .plan import DISTRACTOR, JUNK, Job, Shot, Sizes
from .shot import shoot
from .track import bad_box, make_track, usual_box


class Studio:
    """Keeps the cameras of a domain set up between pictures.

    Args:
        domain: a key of `DOMAINS`.
        sizes: the domain's sizes and seed.
    """

    def __init__(self, domain: str, sizes: Sizes) -> None:
        self.domain, self.sizes, self.style = domain, sizes, DOMAINS[domain]
        self._cameras: dict[int, Camera] = {}

    def camera(self, index: int) -> Camera:
        """The camera with this index, set up on first use."""
        if index not in self._cameras:
            sizes = self.sizes
            self._cameras[index] = make_camera(
                sizes.seed, self.domain, self.style, index, sizes.cameras, sizes.height, sizes.width
            )
        return self._cameras[index]

    def take(self, job: Job) -> Iterator[tuple[Shot, bytes]]:
        """Take a job's pictures.

        Args:
            job: from `make_plan`.

        Yields:
            Each shot with the bytes of its JPEG file.
        """
        seed, domain = self.sizes.seed, self.domain
        person = make_person(generator(seed, domain, "person", job.key), self.style)
        for shot in job.shots:
            camera = self.camera(shot.camera)
            track = make_track(
                generator(seed, domain, "track", job.key, shot.camera), camera.views, camera.size
            )
            rng = generator(seed, domain, "frame", job.key, shot.camera, shot.frame)
            pose, place = track.at(shot.frame, rng), track.place + track.drift * shot.frame
            kind = rng.random()
            bad = shot.pid == JUNK or (shot.pid == DISTRACTOR and kind < 0.3)
            box = bad_box(rng) if bad else usual_box(rng, track)
            empty = shot.pid == DISTRACTOR and 0.3 <= kind < 0.5
            yield shot, shoot(camera, rng, None if empty else (person, pose), box, place)

    def sample(self, person: int, camera: int, frames: int) -> list[bytes]:
        """JPEG files of the n-th identity before one camera, for looking at."""
        return [
            data
            for _, data in self.take(
                Job(person + 1, tuple(Shot("", "", person + 1, camera, f) for f in range(frames)))
            )
        ]
