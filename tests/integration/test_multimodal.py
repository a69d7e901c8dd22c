"""Images, PDF files, conversations and whole bodies in requests, as an endpoint receives them."""

import base64
import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest


PNG = b"\x89PNG\r\n\x1a\n rest"
PDF = b"%PDF-1.7 rest"


def url(data, kind):
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


@pytest.fixture
def sent(main_cli, fault_server):
    """The bodies that a run over `table` sends; `ran` of it keeps how the run ended."""

    def sent(table, *, prompt, name="in.jsonl", request='model = "m1"'):
        path = main_cli.folder / name
        if name.endswith(".parquet"):
            pq.write_table(pa.table(table), path)
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in table))
        (main_cli.folder / "job.toml").write_text(
            f'[input]\npath = "{name}"\n[prompt]\n{prompt}\n[request]\n{request}\n'
            f'[endpoint]\nbase_url = "{fault_server.url}"\n'
            '[output]\npath = "out.csv"\ncolumns = "standard"\n'
        )
        before = len(fault_server.seen)
        sent.ran = main_cli("run", "job.toml")
        fault_server.settle()
        return [json.loads(request.body) for request in fault_server.seen[before:]]

    sent.folder = main_cli.folder
    return sent


def message(part):
    return f'messages = [{{ role = "user", content = [{{ type = "input_text", text = "{{{{ q }}}}" }}, {part}] }}]'


IMAGE = message('{ type = "input_image", image_file = "{{ path }}", detail = "low" }')
FILE = message('{ type = "input_file", file_path = "{{ path }}" }')


def output(folder):
    with (folder / "out.csv").open(newline="") as file:
        return [*csv.DictReader(file)]


def test_an_image_file_goes_out_beside_its_question(sent):
    (sent.folder / "a.png").write_bytes(PNG)
    [body] = sent([{"q": "What is it?", "path": "a.png"}], prompt=IMAGE)
    assert sent.ran.code == 0
    [said] = body["input"]
    image = {"type": "input_image", "image_url": url(PNG, "image/png"), "detail": "low"}
    assert said["content"] == [{"type": "input_text", "text": "What is it?"}, image]


def test_a_bytes_column_of_parquet_goes_out_as_an_image(sent):
    part = message('{ type = "input_image", image_bytes = "picture" }')
    table = {"q": ["a", "b"], "picture": pa.array([PNG, b"\xff\xd8\xff jpeg"], pa.binary())}
    bodies = sent(table, prompt=part, name="in.parquet")
    assert sent.ran.code == 0
    images = {b["input"][0]["content"][0]["text"]: b["input"][0]["content"][1] for b in bodies}
    assert images["a"] == {"type": "input_image", "image_url": url(PNG, "image/png")}
    assert images["b"]["image_url"].startswith("data:image/jpeg;base64,")


def test_a_dataset_column_of_images_goes_out_too(sent):
    part = message('{ type = "input_image", image_bytes = "image" }')
    table = {"q": ["a"], "image": pa.array([{"bytes": PNG, "path": "a.png"}])}
    [body] = sent(table, prompt=part, name="in.parquet")
    assert body["input"][0]["content"][1]["image_url"] == url(PNG, "image/png")


def test_a_pdf_file_goes_out_with_its_name(sent):
    (sent.folder / "papers").mkdir()
    (sent.folder / "papers" / "one.pdf").write_bytes(PDF)
    [body] = sent([{"q": "Sum up.", "path": "papers/one.pdf"}], prompt=FILE)
    assert body["input"][0]["content"][1] == {
        "type": "input_file", "filename": "one.pdf", "file_data": url(PDF, "application/pdf"),
    }  # fmt: skip


def test_a_missing_or_wrong_file_fails_its_row_alone(sent):
    (sent.folder / "a.png").write_bytes(PNG)
    (sent.folder / "b.png").write_bytes(b"plain text")
    rows = [{"q": "q", "path": name} for name in ("a.png", "gone.png", "b.png")]
    assert len(sent(rows, prompt=IMAGE)) == 1
    assert sent.ran.code == 3
    endings = [(row["llm_status"], row["llm_error_code"]) for row in output(sent.folder)]
    assert endings == [("ok", ""), ("failed", "bad_input"), ("failed", "bad_input")]
    assert "gone.png" in output(sent.folder)[1]["llm_error"]


def test_an_image_that_changed_is_another_request_and_one_that_did_not_is_not(sent):
    (sent.folder / "a.png").write_bytes(PNG)
    (sent.folder / "b.png").write_bytes(PNG + b"2")
    rows = [{"q": "q", "path": "a.png"}, {"q": "q", "path": "b.png"}]
    assert len(sent(rows, prompt=IMAGE)) == 2
    assert sent(rows, prompt=IMAGE) == []
    (sent.folder / "b.png").write_bytes(PNG + b"3")
    assert sent(rows, prompt=IMAGE) == [], "half of the rows would be paid again"
    assert (sent.ran.code, "--on-change" in sent.ran.err) == (2, True)


def test_a_column_holds_a_whole_conversation(sent):
    talk = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello {{ not a template }}"},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": "And now?"},
    ]
    [body] = sent([{"talk": talk}], prompt='messages = "talk"')
    assert body["input"] == talk
    [body] = sent([{"talk": json.dumps(talk[1:])}], prompt='messages = "talk"', name="b.jsonl")
    assert body["input"] == talk[1:], "JSON text serves as well"


def test_a_conversation_may_lie_in_parquet(sent):
    talk = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi."}]
    [body] = sent({"talk": [talk]}, prompt='messages = "talk"', name="in.parquet")
    assert body["input"] == talk


def test_a_column_holds_a_whole_body_and_request_fills_its_gaps(sent):
    rows = [
        {"b": {"input": "x", "temperature": 0.5, "stream": True}},
        {"b": {"input": "y", "model": "m9"}},
    ]
    bodies = sent(rows, prompt='body = "b"', request='model = "m1"\ntemperature = 1')
    found = {body["input"]: body for body in bodies}
    assert (found["x"]["model"], found["x"]["temperature"]) == ("m1", 0.5)
    assert (found["y"]["model"], found["y"]["temperature"]) == ("m9", 1)
    assert {body["stream"] for body in bodies} == {False}, "how to read a reply is not the row's"


def test_parameters_of_the_request_may_come_from_the_row(sent):
    rows = [
        {"q": "x", "m": "m2", "n": 64, "e": "low"},
        {"q": "y", "m": "m3", "n": "32", "e": "high"},
    ]
    request = 'model = "{{ m }}"\nmax_output_tokens = "{{ n }}"\nreasoning = { effort = "{{ e }}" }'
    bodies = sent(rows, prompt='input = "{{ q }}"', request=request)
    found = {b["input"]: (b["model"], b["max_output_tokens"], b["reasoning"]) for b in bodies}
    assert found == {"x": ("m2", 64, {"effort": "low"}), "y": ("m3", 32, {"effort": "high"})}


def test_bytes_come_from_a_column_and_not_from_a_template(sent):
    part = message('{ type = "input_image", image_bytes = "{{ picture }}" }')
    assert sent([{"q": "a", "picture": "x"}], prompt=part) == []
    assert sent.ran.code == 2
    assert "must be the name of the column" in sent.ran.err
