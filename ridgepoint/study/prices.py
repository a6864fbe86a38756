"""What an hour of a target costs, from the user's own price file, each price with its date and source."""

from datetime import date
from pathlib import Path

import msgspec

from ridgepoint.errors import BadInput
from ridgepoint.hardware import data_folder

__all__ = ["OLD_DAYS", "Price", "price_of", "prices_path"]

OLD_DAYS = 90
"""Age from which a price is shown with it."""
_MOST_BYTES = 2**20


class Price(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One device for one hour."""

    target: str
    per_hour: float
    currency: str
    date: date
    source: str

    def age_days(self, today: date) -> int:
        """Days since the price was looked up."""
        return (today - self.date).days

    def words(self, today: date) -> str:
        """The price with its date and source; an old one says how old it is."""
        age = self.age_days(today)
        old = f", {age} days old" if age > OLD_DAYS else ""
        return f"{self.per_hour:g} {self.currency} per device and hour, {self.date.isoformat()}{old}, {self.source}"


class _Prices(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    price: tuple[Price, ...] = ()


def prices_path() -> Path:
    """`prices.toml` in the user's data folder; no prices ship with the package."""
    return data_folder() / "prices.toml"


def price_of(target: str) -> Price | None:
    """The newest price of a target; None where there is none. BadInput naming the field that is wrong."""
    path = prices_path()
    if not path.is_file():
        return None
    try:
        text = path.read_bytes()
        found = msgspec.toml.decode(text[:_MOST_BYTES], type=_Prices).price
    except (OSError, msgspec.DecodeError, ValueError) as error:
        raise BadInput(f"{path}: {error}") from None
    for price in found:
        if not 0 < price.per_hour < 1e6:
            raise BadInput(f"{path}: per_hour of {price.target} is {price.per_hour:g}; possible is a positive amount")
    return max((price for price in found if price.target == target), key=lambda price: price.date, default=None)
