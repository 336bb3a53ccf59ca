import pytest

from geosiam.training import loop


@pytest.fixture(autouse=True)
def short_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Validate on one batch: what the figures are is no concern of the tests that train."""
    monkeypatch.setattr(loop, "VALIDATION_BATCHES", 1)
