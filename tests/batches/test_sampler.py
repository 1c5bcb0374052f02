"""Patches of a step: a pure function of seed, fold and step."""

from __future__ import annotations

from collections import Counter

import numpy as np

from mambamed.batches.sampler import Sampler, random_stream
from tests.batches.memory_case import MemoryCase, blob_case

PATCH = (8, 8, 8)


def sampler(cases, foreground=0.33, key=(0, 0), batch_size=3, patch=PATCH):
    return Sampler(cases, patch, batch_size, foreground, key)


def test_a_step_alone_decides_its_patches():
    cases = {f"c{i}": blob_case(seed=i) for i in range(5)}
    one, other = sampler(cases), sampler(dict(reversed(cases.items())))
    later = [one.requests(step) for step in (7, 3, 7)]
    assert later[0] == later[2] == other.requests(7)
    assert later[0] != later[1]


def test_another_seed_and_another_fold_draw_other_patches():
    cases = {f"c{i}": blob_case(seed=i) for i in range(5)}
    draws = [sampler(cases, key=key).requests(0) for key in ((0, 0), (1, 0), (0, 1))]
    assert draws[0] != draws[1] and draws[0] != draws[2] and draws[1] != draws[2]


def test_every_case_is_seen_equally_often():
    cases = {f"c{i}": blob_case(seed=i) for i in range(6)}
    seen = Counter(r.case_id for step in range(40) for r in sampler(cases).requests(step))
    assert set(seen.values()) == {20}  # 40 steps of 3 patches over 6 cases


def test_the_share_of_foreground_patches_is_exact():
    label = np.zeros((40, 40, 40), np.uint8)
    label[35, 35, 35] = 1
    case = MemoryCase(np.zeros((1, 40, 40, 40), np.float16), label)
    requests = [r for step in range(100) for r in sampler({"c": case}, 0.25, batch_size=4).requests(step)]
    # The voxel lies in a patch by design in one patch of four; by chance in (8/33)^3 = 1.4 % where
    # the patch may not leave the case: here it touches its rim, so nearly never.
    with_it = sum(all(s <= 35 < s + 8 for s in r.start) for r in requests)
    assert 100 <= with_it <= 110
    centered = sum(r.start == (31, 31, 31) for r in requests)  # 35 - 4, inside 0..32
    assert centered >= 100


def test_a_rare_label_is_drawn_as_often_as_a_large_one():
    label = np.ones((30, 30, 30), np.uint8)
    label[15, 15, 15] = 2
    case = MemoryCase(np.zeros((1, 30, 30, 30), np.float16), label)
    starts = [sampler({"c": case}, 1.0, batch_size=1).requests(k)[0].start for k in range(200)]
    assert 70 <= starts.count((11, 11, 11)) <= 130  # 200 draws with p = 1/2: 100 +- 4 sigma


def test_a_case_smaller_than_the_patch_lies_in_its_middle():
    case = blob_case(shape=(5, 30, 8))
    for step in range(50):
        for request in sampler({"c": case}, 0.5).requests(step):
            assert request.start[0] == -1 and 0 <= request.start[1] <= 22 and request.start[2] == 0


def test_a_case_without_foreground_is_still_sampled():
    case = MemoryCase(np.zeros((1, 20, 20, 20), np.float16), np.zeros((20, 20, 20), np.uint8))
    assert len(sampler({"c": case}, 1.0).requests(0)) == 3


def test_streams_of_different_keys_are_uncorrelated():
    a, b = (random_stream(0, k).standard_normal(10_000) for k in (1, 2))
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.05
