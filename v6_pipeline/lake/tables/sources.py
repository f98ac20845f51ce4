"""Sources outside the lake: IB's API, Flex statements, the strategy registry; functions for ``Column.origins``.

Fields have IB's own names, message or element and attribute; Dagster shows them as the columns of external assets.
"""

from __future__ import annotations

from functools import partial

from v6_pipeline.lake.columns import Origin

IB_ACCOUNT = "ib_account"
STRATEGY_REGISTRY = "strategy_registry"
IB_FLEX = "ib_flex"

BROKER_FIELDS: dict[str, str] = {
    "position.account": "account that holds the position",
    "position.contract": "conid, symbol, type, right, strike, expiry, multiplier, currency",
    "position.position": "signed number of contracts or shares",
    "position.avgCost": "average cost per unit, multiplier included",
    "contractDetails.underConId": "contract id of the underlying",
    "contractDetails.priceMagnifier": "what a price is divided by",
    "updatePortfolio.position": "signed number of contracts or shares",
    "updatePortfolio.marketPrice": "IB's mark of the position",
    "updatePortfolio.marketValue": "IB's value of the position",
    "updatePortfolio.averageCost": "average cost per unit, multiplier included",
    "updatePortfolio.unrealizedPNL": "IB's unrealized profit and loss",
    "updatePortfolio.realizedPNL": "IB's profit and loss realized today",
    "updateAccountValue": "account figures by tag and currency",
    "pnl.dailyPnL": "profit and loss of the day",
    "tickPrice.bid": "tick 1",
    "tickPrice.ask": "tick 2",
    "tickPrice.last": "tick 4",
    "tickPrice.close": "tick 9",
    "tickPrice.markPrice": "tick 37, requested by generic tick 221",
    "tickOptionComputation.model": "tick 13: implied volatility, greeks, price of the underlying",
    "marketDataType": "1 live, 2 frozen, 3 delayed, 4 delayed and frozen",
    "historicalData.close": "close of a historical bar",
}
"""Field of ``ib_account`` -> meaning."""

REGISTRY_FIELDS: dict[str, str] = {
    "strategy": "name of the strategy",
    "priority": "lower numbers are served first",
    "account": "account that a membership is for; null is any",
    "conid": "IB's contract id of a membership",
    "quantity": "contracts or shares that the strategy claims of a holding; null is all",
    "selector": "rule by which holdings serve the strategy, in place of a contract",
    "valid_from": "begin of its validity (UTC)",
    "valid_to": "end of its validity (UTC); null while it is valid",
}
"""Field of ``strategy_registry`` -> meaning."""

POSITION = "OpenPosition"
"""Element of an open position."""
MOVES = ("Trade", "OptionEAE", "Transfer", "CorporateAction")
"""Elements that change a quantity."""
FLEX_ATTRIBUTES: dict[str, str] = {
    "FlexQueryResponse.queryName": "name of the Flex query",
    "FlexStatement.accountId": "account of the statement",
    "FlexStatement.fromDate": "first day of the statement's period",
    "FlexStatement.toDate": "last day of the statement's period",
    "FlexStatement.whenGenerated": "when IB generated the statement",
    "AccountInformation.currency": "the account's base currency",
    POSITION: "an open position at the end of the period",
    f"{POSITION}.conid": "IB's contract id",
    f"{POSITION}.symbol": "symbol of the contract itself",
    f"{POSITION}.underlyingSymbol": "symbol of the underlying",
    f"{POSITION}.underlyingConid": "contract id of the underlying",
    f"{POSITION}.assetCategory": "security type",
    f"{POSITION}.putCall": "C or P for options",
    f"{POSITION}.strike": "strike price",
    f"{POSITION}.expiry": "last trading day of the contract",
    f"{POSITION}.multiplier": "units of the underlying per contract",
    f"{POSITION}.currency": "contract currency",
    f"{POSITION}.position": "signed number of contracts or shares",
    f"{POSITION}.markPrice": "IB's mark",
    f"{POSITION}.positionValue": "value of the position, contract currency",
    f"{POSITION}.costBasisMoney": "what the position cost, contract currency",
    f"{POSITION}.fifoPnlUnrealized": "unrealized profit and loss (FIFO), contract currency",
    f"{POSITION}.fxRateToBase": "base-currency value of one unit of the contract currency",
    f"{POSITION}.accruedInt": "interest accrued on the position",
    **{f"{move}.conid": "IB's contract id" for move in MOVES},
    **{f"{move}.quantity": "signed change of the position" for move in MOVES},
    **{f"{move}.symbol": "symbol of the contract" for move in MOVES},
    **{f"{move}.currency": "contract currency" for move in MOVES},
    **{f"{move}.fxRateToBase": "base-currency value of one unit of the contract currency" for move in MOVES},
    **{f"{move}.transactionID": "IB's id of the transaction" for move in MOVES},
    "Trade.tradePrice": "price of the trade",
    "OptionEAE.tradePrice": "price that an exercise or assignment was booked at",
    "Trade.fifoPnlRealized": "profit and loss that a trade realized (FIFO), contract currency",
    "OptionEAE.realizedPnl": "profit and loss that an exercise or assignment realized, contract currency",
    "OptionEAE.proceeds": "cash of a cash-settled option, contract currency",
    "CorporateAction.fifoPnlRealized": "profit and loss that a corporate action realized, contract currency",
    "Trade.reportDate": "day on which a trade was booked",
    "Trade.tradeDate": "day of the trade",
    "OptionEAE.date": "day of the exercise or assignment",
    "Transfer.date": "day of the transfer",
    "CorporateAction.reportDate": "day on which a corporate action was booked",
}
"""Field of ``ib_flex`` -> meaning."""


def of(table: str, *columns: str) -> tuple[Origin, ...]:
    """Return columns of a table, or fields of a source."""
    return tuple(Origin(table, column) for column in columns)


broker = partial(of, IB_ACCOUNT)
"""Fields of IB's API messages, as message.field."""
flex = partial(of, IB_FLEX)
"""Attributes of Flex statements, as element.attribute."""
registry = partial(of, STRATEGY_REGISTRY)
"""Fields of the strategy registry."""
