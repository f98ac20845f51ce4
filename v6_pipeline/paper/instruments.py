"""The instruments of the simulated market, as data; `universe` derives the contracts from these rows.

Conids of stocks, indices and the currency pair are IB's real ones; price levels are only of the right order.
"""

from dataclasses import dataclass

CURRENCY_PAIR_CONID = 12087792
"""EUR.USD at IDEALPRO: converts euros into the accounts' base currency."""
BASE_CURRENCY = "USD"
"""Base currency of every account."""


@dataclass(frozen=True, slots=True)
class UnderlyingSpec:
    """A stock or index; it has no options if `strike_step` is 0."""

    conid: int
    symbol: str
    sec_type: str
    long_name: str
    primary_exchange: str
    trading_class: str
    base_price: float
    volatility: float
    strike_step: float = 0.0
    option_class: str = ""
    currency: str = "USD"
    stock_type: str = "COMMON"
    industry: str = ""


@dataclass(frozen=True, slots=True)
class FutureSpec:
    """A future with quarterly expiries; without `index_symbol` it has a price level of its own."""

    symbol: str
    long_name: str
    exchange: str
    multiplier: str
    min_tick: float
    index_symbol: str = ""
    base_price: float = 0.0
    volatility: float = 0.2
    price_magnifier: int = 1
    industry: str = ""


UNDERLYINGS = (
    UnderlyingSpec(416904, "SPX", "IND", "S&P 500 Stock Index", "CBOE", "SPX", 5900.0, 0.15, 25.0, "SPXW"),
    UnderlyingSpec(
        265598, "AAPL", "STK", "APPLE INC", "NASDAQ", "NMS", 228.0, 0.24, 2.5, "AAPL", industry="Technology"
    ),
    UnderlyingSpec(416843, "NDX", "IND", "NASDAQ 100 Stock Index", "NASDAQ", "NDX", 20600.0, 0.2, 100.0, "NDXP"),
    UnderlyingSpec(
        756733, "SPY", "STK", "SPDR S&P 500 ETF TRUST", "ARCA", "SPY", 588.0, 0.15, 5.0, "SPY", "USD", "ETF"
    ),
    UnderlyingSpec(
        4815747, "NVDA", "STK", "NVIDIA CORP", "NASDAQ", "NMS", 142.0, 0.45, 2.5, "NVDA", industry="Technology"
    ),
    UnderlyingSpec(416888, "RUT", "IND", "Russell 2000 Stock Index", "RUSSELL", "RUT", 2340.0, 0.22, 10.0, "RUTW"),
    UnderlyingSpec(
        272093, "MSFT", "STK", "MICROSOFT CORP", "NASDAQ", "NMS", 417.0, 0.22, 5.0, "MSFT", industry="Technology"
    ),
    UnderlyingSpec(
        76792991, "TSLA", "STK", "TESLA INC", "NASDAQ", "NMS", 340.0, 0.6, 5.0, "TSLA", industry="Consumer, Cyclical"
    ),
    UnderlyingSpec(320227571, "QQQ", "STK", "INVESCO QQQ TRUST", "NASDAQ", "NMS", 502.0, 0.2, 5.0, "QQQ", "USD", "ETF"),
    UnderlyingSpec(
        3691937, "AMZN", "STK", "AMAZON.COM INC", "NASDAQ", "NMS", 198.0, 0.3, 2.5, "AMZN", industry="Communications"
    ),
    UnderlyingSpec(
        1520593, "JPM", "STK", "JPMORGAN CHASE & CO", "NYSE", "JPM", 245.0, 0.22, 2.5, "JPM", industry="Financial"
    ),
    UnderlyingSpec(
        9579970, "IWM", "STK", "ISHARES RUSSELL 2000 ETF", "ARCA", "IWM", 238.0, 0.22, 2.5, "IWM", "USD", "ETF"
    ),
    UnderlyingSpec(51529211, "GLD", "STK", "SPDR GOLD SHARES", "ARCA", "GLD", 250.0, 0.16, 2.5, "GLD", "USD", "ETF"),
    UnderlyingSpec(13977, "XOM", "STK", "EXXON MOBIL CORP", "NYSE", "XOM", 120.0, 0.24, 2.5, "XOM", industry="Energy"),
    UnderlyingSpec(8894, "KO", "STK", "COCA-COLA CO/THE", "NYSE", "KO", 63.0, 0.15, 1.0, "KO", industry="Consumer"),
    UnderlyingSpec(14204, "SAP", "STK", "SAP SE", "IBIS", "XETRA", 222.0, 0.24, currency="EUR", industry="Technology"),
    UnderlyingSpec(8314, "IBM", "STK", "INTL BUSINESS MACHINES CORP", "NYSE", "IBM", 222.0, 0.2, industry="Technology"),
)

FUTURES = (
    FutureSpec("ES", "E-mini S&P 500", "CME", "50", 0.25, "SPX", industry="Indices"),
    FutureSpec("CL", "Light Sweet Crude Oil", "NYMEX", "1000", 0.01, "", 71.0, 0.32, industry="Energy"),
    # Quoted in cents a bushel, 5000 bushels a contract: the one row whose prices need the magnifier.
    FutureSpec("ZC", "Corn Futures", "CBOT", "5000", 0.25, "", 435.0, 0.22, 100, "Agriculture"),
    FutureSpec("NQ", "E-mini NASDAQ 100", "CME", "20", 0.25, "NDX", industry="Indices"),
    FutureSpec("GC", "Gold", "COMEX", "100", 0.1, "", 2700.0, 0.16, industry="Precious Metals"),
)
