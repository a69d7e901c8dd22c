import json

import pytest

from batch_runner.errors import StorageError, UsageError
from batch_runner.journal import DamagedManifest, Manifest, read_manifest, write_manifest
from batch_runner.journal.line import with_checksum


MANIFEST = Manifest(
    fingerprint="f00d",
    job={"model": "m", "prompt": "Summarize: {{ text }}"},
    input={"path": "a.csv", "size": 12, "sha256": "00"},
    extra={"endpoint": "https://example.test/v1"},
)


def test_a_manifest_comes_back_as_it_went_in(tmp_path):
    path = tmp_path / "manifest.json"
    assert read_manifest(path) is None
    write_manifest(path, MANIFEST)
    assert read_manifest(path) == MANIFEST
    assert path.stat().st_mode & 0o777 == 0o600


def test_it_is_json_that_people_can_read(tmp_path):
    path = tmp_path / "manifest.json"
    write_manifest(path, MANIFEST)
    assert json.loads(path.read_text())["job"]["model"] == "m"
    assert len(path.read_text().splitlines()) > 8


def test_any_damage_is_told_and_is_no_exception(tmp_path):
    path = tmp_path / "manifest.json"
    write_manifest(path, MANIFEST)
    whole = path.read_bytes()
    for size in range(0, len(whole) - 1, 5):
        path.write_bytes(whole[:size])
        assert isinstance(read_manifest(path), DamagedManifest)
    for position in range(0, len(whole) - 1, 3):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        assert isinstance(read_manifest(path), DamagedManifest)
    path.write_bytes(b"")
    assert "manifest.json" in read_manifest(path).reason


def test_a_later_format_is_refused(tmp_path):
    path = tmp_path / "manifest.json"
    path.write_bytes(with_checksum(b'{"format":2,"anything":"else"'))
    with pytest.raises(UsageError, match="format 2"):
        read_manifest(path)


def test_an_unreadable_place_is_a_storage_error(tmp_path):
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(StorageError, match=r"manifest\.json"):
        read_manifest(tmp_path / "manifest.json")
