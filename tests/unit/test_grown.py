"""Rows without a name are known by where they stand, as long as those before them have not changed."""

import pytest

from batch_runner.disk import identity_of
from batch_runner.grown import digests_of, is_same_or_grown


@pytest.mark.parametrize(
    ("before", "now", "stand"),
    [
        ([b"a\n1\n"], [b"a\n1\n"], True),
        ([b"a\n1\n"], [b"a\n1\n2\n"], True),
        ([b"a\n1\n"], [b"a\n1\n", b"a\n2\n"], True),
        ([b"a\n1\n", b"a\n2\n"], [b"a\n1\n", b"a\n2\n3\n"], True),
        ([b"a\n1\n"], [b"a\n2\n"], False),
        ([b"a\n1\n"], [b"a\n0\n1\n"], False),
        ([b"a\n1\n2\n"], [b"a\n1\n"], False),
        ([b"a\n1"], [b"a\n15\n"], False),
        ([b"a\n1\n", b"a\n2\n"], [b"a\n1\n", b"a\n3\n"], False),
        ([b"a\n1\n", b"a\n2\n"], [b"a\n1\n5\n", b"a\n2\n"], False),
        ([b"a\n1\n", b"a\n2\n"], [b"a\n2\n"], False),
        ([b"a\n1\n"], [b"a\n1\n5\n", b"a\n2\n"], False),
    ],
)
def test_rows_stand_where_they_stood_only_behind_the_same_bytes(tmp_path, before, now, stand):
    def written(contents):
        for path in tmp_path.iterdir():
            path.unlink()
        for at, content in enumerate(contents):
            (tmp_path / f"{at}.csv").write_bytes(content)
        return identity_of(sorted(tmp_path.iterdir()))

    was = written(before)
    digests = digests_of(was)
    assert is_same_or_grown(was, digests, was)
    assert is_same_or_grown(was, digests, written(now)) is stand


def test_what_was_not_written_down_is_not_believed(tmp_path):
    path = tmp_path / "in.csv"
    path.write_bytes(b"a\n1\n")
    was = identity_of([path])
    path.write_bytes(b"a\n1\n2\n")
    assert not is_same_or_grown(was, (), identity_of([path]))
    assert not is_same_or_grown((), (), identity_of([path]))
    path.unlink()
    assert digests_of(was) == [None]
