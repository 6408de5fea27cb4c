"""Prices, caps, the ledger of what machines cost, and its report."""
