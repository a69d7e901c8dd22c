"""Images and PDF files in a request: what is taken, what it becomes, and what never leaves."""

import base64
import os

import pytest

from batch_runner.attachments import read_attachment
from batch_runner.media import LARGEST_BYTES, LARGEST_IMAGE_BYTES, Source, decoded, source_of


PNG = b"\x89PNG\r\n\x1a\n rest"


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (PNG, "image/png"),
        (b"\xff\xd8\xff\xe0 jfif", "image/jpeg"),
        (b"GIF89a", "image/gif"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "image/webp"),
    ],
)
def test_the_bytes_tell_the_type_of_an_image_whatever_it_is_called(data, kind):
    part = Source.IMAGE_FILE.part(data, "photo.txt")
    assert part == {"image_url": f"data:{kind};base64,{base64.b64encode(data).decode()}"}


def test_a_pdf_file_goes_with_its_name_and_without_its_folder():
    part = Source.FILE_PATH.part(b"%PDF-1.7 x", "secret/place/report.pdf")
    assert part == {
        "filename": "report.pdf",
        "file_data": f"data:application/pdf;base64,{base64.b64encode(b'%PDF-1.7 x').decode()}",
    }


def test_a_pdf_header_may_follow_some_other_bytes_as_readers_allow():
    assert Source.FILE_BYTES.part(b"\n\n%PDF-1.4", "column")["filename"] == "file.pdf"


@pytest.mark.parametrize(
    ("source", "data", "words"),
    [
        (Source.IMAGE_FILE, b"root:x:0:0", "not a PNG, JPEG, GIF or WebP image"),
        (Source.IMAGE_BYTES, b"", "not a PNG"),
        (Source.FILE_PATH, b"root:x:0:0", "not a PDF file"),
        (Source.FILE_PATH, PNG, "not a PDF file"),
        (Source.FILE_PATH, b" " * 2000 + b"%PDF-1.4", "not a PDF file"),
    ],
)
def test_nothing_else_leaves_because_a_cell_names_it(source, data, words):
    with pytest.raises(ValueError, match=words):
        source.part(data, "x")


def test_an_image_and_a_file_have_the_size_that_endpoints_take():
    with pytest.raises(ValueError, match=r"'x' is larger than 20 MiB"):
        Source.IMAGE_BYTES.part(PNG + bytes(LARGEST_IMAGE_BYTES), "x")
    with pytest.raises(ValueError, match=r"'x' is larger than 50 MiB"):
        Source.FILE_BYTES.part(b"%PDF-" + bytes(LARGEST_BYTES), "x")


def test_a_file_that_no_request_could_hold_is_refused_unread(tmp_path):
    with (tmp_path / "big.png").open("wb") as file:
        file.truncate(LARGEST_BYTES + 1)
    with pytest.raises(ValueError, match=r"'big.png' is larger than 50 MiB"):
        read_attachment("big.png", folder=tmp_path)


def test_a_relative_name_means_the_folder_of_the_job(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(PNG)
    assert read_attachment("pictures/a.png", folder=tmp_path) == PNG
    assert read_attachment(str(tmp_path / "pictures/a.png"), folder=tmp_path / "b") == PNG


def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", ".", "/dev/zero", "gone.png", "a.png/b", "nul\0l"):
        with pytest.raises(ValueError, match=r"cannot be read|null byte"):
            read_attachment(name, folder=tmp_path)


@pytest.mark.parametrize(
    "cell", [base64.b64encode(PNG).decode(), {"bytes": base64.b64encode(PNG).decode(), "path": "a"}]
)
def test_a_cell_holds_bytes_as_text_or_as_datasets_nest_them(cell):
    assert decoded(cell, "image") == PNG


@pytest.mark.parametrize("cell", ["not base64!", "été", 7, ["x"]])
def test_a_cell_that_holds_no_bytes_is_named(cell):
    with pytest.raises(ValueError, match="column 'image' holds neither bytes nor base64"):
        decoded(cell, "image")


def test_only_content_parts_attach_anything():
    assert source_of({"type": "input_image", "image_file": "a.png"}) is Source.IMAGE_FILE
    assert source_of({"type": "input_file", "file_bytes": "pdf"}) is Source.FILE_BYTES
    assert source_of({"type": "input_image", "image_url": "https://x/a.png"}) is None
    assert source_of({"type": "object", "image_file": {"type": "string"}}) is None, "a schema"
    assert source_of({"image_file": "a.png"}) is None
