"""A small job whose input is edited between runs: rows that come, go, change, move and repeat."""

import csv
import json
from collections import Counter
from pathlib import Path

from batch_runner.jobmapping import job_from_mapping
from tests.simulation.endpoint import CAP, DOLLARS_IN, DOLLARS_OUT, MODEL


PERIODS = {"now": 0.0, "100ms": 0.1, "1s": 1.0, "off": None}
"""Durability to the seconds after which a finished row must survive a power cut."""
FIELDS = ("id", "text")


class SimulatedJob:
    """`rows` are pairs (id, text); a text begins with a word that names what is asked for."""

    def __init__(self, dice, *, rough):
        self._dice = dice
        self.durability = dice.choice(("100ms", "100ms", "now", "1s", "1s", "off"))
        if rough:
            self.durability = "off"
        self.format = dice.choice(("csv", "csv", "jsonl"))
        self.streams = dice.random() < 0.2
        self.has_key = dice.random() < 0.5
        self.segment_bytes = dice.choice((1500, 20_000, 256 << 20))
        self.timeout = dice.choice((5, 20, 60))
        self.output = Path(f"out.{self.format}")
        self.rows = []
        self._next = 0
        for _ in range(dice.choices((5, 8, 12, 20, 60), (30, 30, 20, 10, 3))[0]):
            self._add(len(self.rows))
        self._save()

    def edit(self):
        """Never are there fewer of those that ask for the same: which of them stayed would be a guess."""
        dice, rows = self._dice, self.rows
        for _ in range(dice.randint(1, 4)):
            times = Counter(text for _, text in rows)
            at = dice.randrange(len(rows))
            match dice.choice(("add", "remove", "change", "shuffle")):
                case "add":
                    self._add(at)
                case "remove" if times[rows[at][1]] == 1 and len(rows) > 3:
                    del rows[at]
                case "change" if times[rows[at][1]] == 1:
                    self._next += 1
                    rows[at] = (rows[at][0], f"row{self._next} changed")
                case "shuffle":
                    dice.shuffle(rows)
        self._save()

    def spec(self, limits):
        return job_from_mapping(
            {
                "input": {"path": f"in.{self.format}"} | ({"key": "id"} if self.has_key else {}),
                "prompt": {"input": "Say: {{ text }}"},
                "request": {"model": MODEL, "max_output_tokens": CAP},
                "endpoint": {
                    "base_url": "http://127.0.0.1:9/v1",
                    "timeout": self.timeout,
                    "stream": self.streams,
                    "idempotency_header": "Idempotency-Key",
                },
                "retry": {"rate_limit_patience": 120, "attempts": 4},
                "limits": limits,
                "output": {"path": str(self.output), "durability": self.durability},
                "prices": {MODEL: {"input": str(DOLLARS_IN), "output": str(DOLLARS_OUT)}},
            },
            origin="job",
            folder=Path(),
            default_name="simulated",
        )

    def read_output(self):
        """Tuples (id, text, status, answer), read without the program's own reader."""
        with self.output.open(newline="") as file:
            if self.format == "csv":
                rows = list(csv.DictReader(file))
            else:
                rows = [json.loads(line) for line in file]
        return [(r["id"], r["text"], r["llm_status"], r["llm_output"] or "") for r in rows]

    def _add(self, position):
        dice = self._dice
        self._next += 1
        if self.rows and dice.random() < 0.2:
            text = dice.choice(self.rows)[1]  # asks for the same as another
        else:
            kind = "poison" if dice.random() < 0.04 else "row"
            text = f"{kind}{self._next} " + "x" * dice.choice((1, 1, 30, 6000))
        self.rows.insert(position, (str(self._next), text))

    def _save(self):
        with Path(f"in.{self.format}").open("w", newline="") as file:
            if self.format == "csv":
                csv.writer(file).writerows([FIELDS, *self.rows])
            else:
                file.writelines(
                    json.dumps(dict(zip(FIELDS, row, strict=True))) + "\n" for row in self.rows
                )
