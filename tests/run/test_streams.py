"""Copies to a GPU are queued from page-locked memory; here stand-ins note how a tensor is copied."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mambamed.run import streams


def test_a_copy_to_cuda_is_queued_from_page_locked_memory(monkeypatch) -> None:
    noted: list[dict[str, Any]] = []
    empty = torch.empty

    def noted_empty(*sizes: Any, **options: Any) -> torch.Tensor:
        noted.append({"page-locked": options.pop("pin_memory", False)})
        return empty(*sizes, **options)

    def noted_to(self: torch.Tensor, device: torch.device, **options: Any) -> torch.Tensor:
        noted.append({"device": device.type, **options})
        return self

    monkeypatch.setattr(torch, "empty", noted_empty)
    monkeypatch.setattr(torch.Tensor, "to", noted_to)
    values = torch.arange(24.0).view(2, 3, 4)[:, 1:]  # a window, not contiguous
    result = streams.copied(values, torch.device("cuda"))
    assert noted == [{"page-locked": True}, {"device": "cuda", "non_blocking": True}]
    assert torch.equal(result, values) and result.is_contiguous()


def test_a_copy_elsewhere_needs_no_page_locked_memory(monkeypatch) -> None:
    monkeypatch.setattr(torch, "empty", lambda *_, **__: pytest.fail("memory was page-locked"))
    values = torch.arange(3.0)
    assert streams.copied(values, torch.device("cpu")) is values
    assert streams.copied(values, torch.device("meta")).device.type == "meta"
