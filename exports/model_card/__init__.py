"""Model card of an export: what the generator draws, its scores, data and limits, and code that uses its files."""

from ganctl.exports.model_card.card import model_card

__all__ = ["model_card"]
