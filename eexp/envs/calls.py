"""Calls as actions of environments: eexp/calls.py, by the name that environments know."""

from eexp.calls import Call, format_call, parse_call

__all__ = ["Call", "format_call", "parse_call"]
