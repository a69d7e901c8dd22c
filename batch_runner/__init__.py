"""Run a prompt over every row of a file through POST /v1/responses; never pay twice."""

__version__ = "0.1.0"
