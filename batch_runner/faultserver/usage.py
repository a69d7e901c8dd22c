"""What a reply cost: token counts by a stated rule, and dollars at a stated price."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Self


BYTES_PER_TOKEN = 4
MILLION = Decimal(1_000_000)


def tokens_in(text: str) -> int:
    """ceil(UTF-8 bytes / 4): the rule by which this server counts, input and output alike."""
    if not text.isascii():
        return -(-len(text.encode("utf-8", "surrogatepass")) // BYTES_PER_TOKEN)
    return -(-len(text) // BYTES_PER_TOKEN)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCount:
    """The server's own count; cached lies inside input, reasoning inside output."""

    input: int = 0
    cached: int = 0
    output: int = 0
    reasoning: int = 0

    @property
    def total(self) -> int:
        return self.input + self.output

    def __add__(self, more: Self) -> "TokenCount":
        return TokenCount(
            input=self.input + more.input,
            cached=self.cached + more.cached,
            output=self.output + more.output,
            reasoning=self.reasoning + more.reasoning,
        )

    def as_usage(self) -> dict[str, Any]:
        """The `usage` object of a Response."""
        return {
            "input_tokens": self.input,
            "input_tokens_details": {"cached_tokens": self.cached, "cache_write_tokens": 0},
            "output_tokens": self.output,
            "output_tokens_details": {"reasoning_tokens": self.reasoning},
            "total_tokens": self.total,
        }

    def as_counts(self) -> dict[str, int]:
        """Flat names, as the ledger file has them."""
        return {
            "input_tokens": self.input,
            "cached_tokens": self.cached,
            "output_tokens": self.output,
            "reasoning_tokens": self.reasoning,
        }

    @classmethod
    def of_counts(cls, counts: Mapping[str, int]) -> Self:
        return cls(
            input=counts["input_tokens"],
            cached=counts["cached_tokens"],
            output=counts["output_tokens"],
            reasoning=counts["reasoning_tokens"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Dollars per million tokens."""

    input: Decimal
    cached: Decimal
    output: Decimal

    def dollars(self, tokens: TokenCount) -> Decimal:
        fresh = tokens.input - tokens.cached
        millionths = fresh * self.input + tokens.cached * self.cached + tokens.output * self.output
        return millionths / MILLION
