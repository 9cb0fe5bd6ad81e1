import pytest

from tqc.cli.output import parse_size, size
from tqc.errors import TqcError


@pytest.mark.parametrize(
    ("text", "count"),
    [("8GiB", 8 << 30), ("1.5 kb", 1500), ("1000", 1000), ("512MiB", 512 << 20), ("2TiB", 2 << 40), ("7 B", 7)],
)
def test_sizes_are_read(text, count):
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["", "GiB", "8 gigs", "-1GiB", "1e9", "8GiB extra"])
def test_what_is_no_size(text):
    with pytest.raises(TqcError, match="not a size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.50 KiB"), (8 << 30, "8.00 GiB"), (5 << 40, "5120.00 GiB")],
)
def test_sizes_are_written(count, text):
    assert size(count) == text
