"""The instruments of the simulated market, as data; `universe` derives the contracts from these rows.

Conids of stocks, indices and the currency pair are IB's real ones; price levels are only of the right order.
"""

from dataclasses import dataclass

CURRENCY_PAIR_CONID = 12087792
"""EUR.USD at IDEALPRO: converts euros into the accounts' base currency."""
CURRENCY_PAIRS = {"EUR": CURRENCY_PAIR_CONID, "GBP": 12087797}
"""Conid of the pair at IDEALPRO that converts a currency into the accounts' base currency."""
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


@dataclass(frozen=True, slots=True)
class UnusualSpec:
    """A contract of a kind that few accounts hold; `underlying` is a symbol of `UNDERLYINGS`.

    `expiry_months` is the time to the expiry, 0 for none. A price of 0 follows the underlying.
    """

    conid: int
    symbol: str
    sec_type: str
    long_name: str
    exchanges: tuple[str, ...]
    base_price: float
    volatility: float
    min_tick: float = 0.01
    currency: str = "USD"
    multiplier: str = ""
    price_magnifier: int = 1
    underlying: str = ""
    expiry_months: int = 0
    strike: float = 0.0
    right: str = ""
    local_symbol: str = ""
    trading_class: str = ""
    primary_exchange: str = ""


UNUSUAL = (
    # Prices in percent of par, positions in units of 1,000 face.
    UnusualSpec(698_000_001, "IBCID698000001", "BILL", "US T-BILL", ("SMART",), 98.746, 0.002, 0.001),
    UnusualSpec(698_000_002, "US-T", "BOND", "US-T 4 1/4 11/15/34", ("SMART",), 101.5, 0.03, 0.0078125),
    # Quoted in pence.
    UnusualSpec(
        *(698_000_003, "GAW", "STK", "GAMES WORKSHOP GROUP PLC", ("SMART", "LSE"), 4294.0, 0.3, 1.0, "GBP"),
        price_magnifier=100,
        trading_class="SET3",
        primary_exchange="LSE",
    ),
    UnusualSpec(
        *(698_000_004, "STAN", "STK", "STANDARD CHARTERED PLC", ("SMART", "LSE"), 1390.0, 0.25, 0.5, "GBP"),
        price_magnifier=100,
        trading_class="SET1",
        primary_exchange="LSE",
    ),
    UnusualSpec(698_000_005, "IBUS500", "CFD", "IB US 500", ("SMART",), 0.0, 0.15, underlying="SPX"),
    UnusualSpec(698_000_006, "AAPL", "CFD", "APPLE INC", ("SMART",), 0.0, 0.24, underlying="AAPL"),
    UnusualSpec(
        *(698_000_007, "DAX", "IOPT", "DAX 24000 CALL", ("SMART", "SWB"), 13.0, 0.6, 0.01, "EUR", "0.01"),
        expiry_months=24,
        strike=24_000.0,
        right="C",
        local_symbol="PB5K8Z",
    ),
    UnusualSpec(698_000_008, "AAPL", "SLB", "APPLE INC", ("PREBORROW",), 0.25, 0.1, 0.01),
    UnusualSpec(
        *(698_000_009, "FF", "EC", "Fed funds target rate above 4.125", ("FORECASTX",), 0.57, 0.4, 0.01),
        expiry_months=3,
        strike=4.125,
        right="C",
    ),
    UnusualSpec(
        *(698_000_010, "CL-HO", "ICU", "Crack spread", ("NYMEX",), -2.5, 0.5, 0.01, "USD", "1000"), expiry_months=3
    ),
    UnusualSpec(
        *(698_000_011, "ZC-ZW", "ICS", "Corn less wheat", ("CBOT",), -120.0, 0.3, 0.25, "USD", "5000", 100),
        expiry_months=3,
    ),
    UnusualSpec(698_000_012, "VFIAX", "FUND", "VANGUARD 500 INDEX-ADM", ("FUNDSERV",), 512.3, 0.15),
    UnusualSpec(479_624_278, "BTC", "CRYPTO", "Bitcoin cryptocurrency", ("PAXOS",), 98_000.0, 0.6, 0.25),
    UnusualSpec(
        *(698_000_013, "NGB", "FUT", "Natural gas basis", ("NYMEX",), -0.35, 0.6, 0.0025, "USD", "2500"),
        expiry_months=3,
    ),
    UnusualSpec(698_000_014, "XAUUSD", "CMDTY", "London gold", ("SMART",), 2650.5, 0.16),
)
